"""`pluralllm report`: a run or a comparison as one page with figures."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a run or of a comparison.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file to write, with figures/ beside it. Default: DIRECTORY/report.html."
        ),
    ] = None,
) -> None:
    """Write a report of a run or of a comparison: one self-contained page, and its figures."""
    from report.build import build_report  # Altair need not slow the other commands

    print(f"Report: {build_report(directory, output)}")
