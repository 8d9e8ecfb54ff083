"""`pluralllm`: one function per command, each in a file of its own."""

import signal
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from task.errors import UserError

COMMANDS = {
    "run": "cli.run:run",
    "compare": "cli.compare:compare",
    "report": "cli.report:report",
    "embed": "cli.embed:embed",
    "predict": "cli.predict:predict",
    "export": "cli.export:export",
    "score": "cli.score:score",
    "align": "cli.align:align",
    "privacy": "cli.privacy:privacy",
    "deploy": "cli.deploy:deploy",
    "check-data": "cli.check_data:check_data_command",
    "config": "cli.settings:show_config",
    "doctor": "cli.doctor:doctor",
}
"""Name to where its function is, or a group of commands."""


class LazyCommands(TyperGroup):
    """Imports a command when it is asked for.

    PyTorch alone takes two seconds, and hundreds of megabytes that a node's supervisor would keep.
    """

    def list_commands(self, _context: Any) -> list[str]:
        """Return the commands' names, as help lists them."""
        return list(COMMANDS)

    def get_command(self, _context: Any, cmd_name: str) -> Any:
        """Return a command; None: there is no such one."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        found = getattr(import_module(module), name)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(cls=LazyCommands, no_args_is_help=True, add_completion=False)


@app.callback()
def pluralllm() -> None:
    """Federated preference learning for LLM alignment, on Flower."""


def _exit(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; an error that the user can put right is one line, exit status 2."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)  # so that what was started is stopped on the way out
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
