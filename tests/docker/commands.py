"""Commands and settings that documents and container files mention, checked against the CLI."""

import re
import shlex
from pathlib import Path

import click
import typer

from cli.main import app
from task.config import RunConfig

ROOT = Path(__file__).parents[2]
SETTING = re.compile(r"[a-z]+\.[a-z][a-z-]*(\.[a-z-]+)?=.*", re.DOTALL)


def shell_blocks(file: Path) -> str:
    """All bash blocks of a Markdown file."""
    return "\n".join(re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL))


def pluralllm_commands(shell: str) -> list[list[str]]:
    """The arguments of every call of `pluralllm` in a shell script, its image included."""
    calls = []
    for line in shell.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||;", line):
            words = shlex.split(part, comments=True)
            starts = [i for i, word in enumerate(words) if re.fullmatch(r"pluralllm(:\S+)?", word)]
            if starts and (tail := words[starts[-1] + 1 :]) and tail[0] != ".":
                calls.append(tail)
    return calls


def require_command(arguments: list[str]) -> None:
    """Fail unless the CLI has this command with these options, and a run these settings."""
    command: click.Command = typer.main.get_command(app)
    rest = list(arguments)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"pluralllm {' '.join(arguments)}: no command {name}"
        command = found
    options = {option for parameter in command.params for option in parameter.opts}
    for word in rest:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"pluralllm {' '.join(arguments)}: {word}"
    settings = [word for word in rest if SETTING.fullmatch(word)]
    defaults = RunConfig().to_flat()
    for setting in settings:
        assert setting.split("=")[0] in defaults, f"{setting} is no setting"
