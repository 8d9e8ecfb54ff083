"""A directory in, its report out."""

from pathlib import Path

from report.comparison_report import comparison_report
from report.files import kind_of, read_run
from report.page import write_report
from report.run_report import run_report
from task.errors import RunDirectoryError


def build_report(directory: Path, output: Path | None = None) -> Path:
    """Write the report of a run's or a comparison's directory; return the page's path.

    Args:
        directory: what `pluralllm run` or `pluralllm compare` has written.
        output: the page; None: `report.html` in the directory. Figures go to `figures/` beside it.

    Raises:
        RunDirectoryError: there is nothing to report on, a file is damaged, or the page cannot be
            written.
    """
    kind = kind_of(directory)
    output = output or directory / "report.html"
    if not output.parent.is_dir():
        raise RunDirectoryError(f"--output {output}: the folder {output.parent} does not exist.")
    if output.is_dir():
        raise RunDirectoryError(f"--output {output} is a folder. Give the name of an HTML file.")
    if kind == "comparison":
        from comparison.results import federated_run, load_results

        report = comparison_report(directory, load_results(directory), federated_run(directory))
    else:
        report = run_report(read_run(directory))
    write_report(report, output)
    return output
