"""`pluralllm`: one function per command, each in a file of its own."""

import signal
import sys

import typer

from cli.compare import compare
from cli.deploy import deploy
from cli.doctor import doctor
from cli.embed import embed
from cli.predict import predict
from cli.privacy import privacy
from cli.report import report
from cli.run import run
from cli.settings import show_config
from task.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Federated preference learning for LLM alignment, on Flower.",
)
app.command("run")(run)
app.command("compare")(compare)
app.command("report")(report)
app.command("embed")(embed)
app.command("predict")(predict)
app.command("privacy")(privacy)
app.command("config")(show_config)
app.command("doctor")(doctor)
app.add_typer(deploy, name="deploy")


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
