"""Settings from the command line: `.toml` files and `key=value`, later ones winning."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from task.config import RunConfig, help_texts, parse_override, read_toml
from task.options import fold_options
from task.settings import Scalar

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        help="Config files (conf/x.toml) and overrides (train.num-rounds=10), later ones win.",
        metavar="[conf/x.toml] [key=value]",
        show_default=False,
    ),
]


def parse_settings(settings: Sequence[str] | None) -> RunConfig:
    """Merge files and overrides into a validated config; relative paths start here.

    Raises:
        ConfigError: a file is missing, or a key or value is wrong.
    """
    return RunConfig.from_flat(merge_settings(settings)).with_absolute_paths(Path.cwd())


def parse_run_settings(settings: Sequence[str] | None) -> RunConfig:
    """As `parse_settings`; with `run.resume`, other settings are first those of that run.

    Raises:
        RunDirectoryError: `run.resume` names no run.
    """
    flat = with_resumed(merge_settings(settings))
    return RunConfig.from_flat(flat).with_absolute_paths(Path.cwd())


def with_resumed(flat: dict[str, Scalar]) -> dict[str, Scalar]:
    """Return settings before which come, with `run.resume`, those of that run.

    Raises:
        RunDirectoryError: `run.resume` names no run.
    """
    if not (resume := flat.get("run.resume")):
        return flat
    from server_app.open_run import resume_settings  # brings PyTorch: see `cli.main`

    return resume_settings(Path.cwd() / Path(str(resume)).expanduser()) | flat


def merge_settings(settings: Sequence[str] | None) -> dict[str, Scalar]:
    """Merge files and overrides to the keys that they set, unchecked.

    Raises:
        ConfigError: a file is missing, or an override has no `=`.
    """
    flat: dict[str, Scalar] = {}
    for text in settings or ():
        if text.endswith(".toml") and "=" not in text:
            flat.update(read_toml(Path(text)))
        else:
            flat.update([parse_override(text)])
        flat = fold_options(flat)
    return flat


def show_config(
    settings: Settings = None,
    markdown: Annotated[bool, typer.Option(help="Print the README's table of defaults.")] = False,
) -> None:
    """List every config key with its value (as the given settings leave it) and meaning."""
    if markdown:
        print(config_table())
        return
    values = parse_settings(settings).to_flat()
    table = Table("key", "value", "meaning")
    for key, meaning in help_texts().items():
        table.add_row(key, str(values[key]), meaning)
    Console().print(table)


def config_table() -> str:
    """Return every key, its default and its meaning as a Markdown table."""
    defaults = RunConfig().to_flat()
    rows = [
        f"| `{key}` | `{json.dumps(defaults[key])}` | {meaning.replace('|', chr(92) + '|')} |"
        for key, meaning in help_texts().items()
    ]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])
