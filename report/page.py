"""The page: template, style sheet, script, Vega and data in one file that loads nothing."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from report.blocks import Figure, Report
from report.figures import to_svg, write_figures
from report.theme import CONFIG
from task.errors import RunDirectoryError

FIGURES = "figures"
_HERE = Path(__file__).parent


def write_report(report: Report, output: Path) -> None:
    """Write a report, and its figures in a folder beside it.

    Raises:
        RunDirectoryError: they cannot be written.
    """
    drawn = {figure.name: to_svg(figure) for figure in report.figures()}
    try:
        write_figures(drawn, output.parent / FIGURES)
        output.write_text(render(report, drawn), encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"The report cannot be written to {output}: {error}.") from None


def render(report: Report, drawn: Mapping[str, str]) -> str:
    """Return a report as HTML.

    Args:
        report: what it says.
        drawn: figure name to SVG, shown where scripts are off.
    """
    environment = Environment(
        loader=PackageLoader("report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html").render(
        report=report,
        drawn=drawn,
        data={
            "config": CONFIG,
            "figures": {figure.name: _embedded(figure) for figure in report.figures()},
            "groups": [group for e in report.explorers() for group in e.groups],
        },
        css=(_HERE / "style.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        vega=_vega(),
        has_figures=bool(report.figures()),
    )
    return page.lstrip()


def _embedded(figure: Figure) -> dict[str, Any]:
    """Return what the script needs of a figure."""
    return {
        "datasets": figure.datasets,
        "views": [
            {
                "choice": view.choice,
                "title": view.title,
                "spec": {
                    **{key: value for key, value in view.spec.items() if key != "config"},
                    "description": f"{view.title}. {figure.description}",
                },
            }
            for view in figure.views
        ],
    }


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in bundle.lower():
        bundle = bundle.replace("</script", "<\\/script")
    return bundle
