"""`pluralllm align`: from a reward model to an aligned language model."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def align(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Config files (conf/align.toml) and overrides (train.steps=10), later ones win.",
            metavar="[conf/align.toml] [key=value]",
            show_default=False,
        ),
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="List every setting, and do nothing else.")
    ] = False,
) -> None:
    """Align a causal language model to groups' preferences, and evaluate it before and after."""
    from alignment.config import AlignConfig, default_settings, help_texts
    from alignment.tables import groups_table, targets_table

    console = Console()
    if defaults:
        table = Table("setting", "default", "meaning")
        texts = help_texts()
        for key, value in default_settings().items():
            table.add_row(key, str(value), texts[key])
        console.print(table)
        return
    config = AlignConfig.parse(settings or [])
    from transformers.utils import logging  # takes seconds to import: see `cli.main`

    from alignment.run import run_alignment

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    metrics = run_alignment(config, lambda line: print(line, flush=True))
    console.print(groups_table(metrics))
    console.print(targets_table(metrics))
