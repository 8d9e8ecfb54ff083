"""Writing figures as PNG and SVG, without a browser."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vl_convert

from report.blocks import Figure, View

WIDTH, NARROW_WIDTH = 760, 460
SCALE = 2.0
"""PNG pixels per unit."""


def standalone_spec(figure: Figure, view: View) -> dict[str, Any]:
    """Return a spec that holds its data, title and width, for use outside the page."""
    return {
        **view.spec,
        "title": view.title,
        "description": f"{view.title}. {figure.description}",
        "width": NARROW_WIDTH if figure.narrow else WIDTH,
        "background": "white",
        "padding": 16,
        "datasets": dict(figure.datasets),
    }


def to_svg(figure: Figure) -> str:
    """Draw a figure as it is shown at first."""
    spec: Mapping[str, Any] = standalone_spec(figure, figure.views[0])
    svg: str = vl_convert.vegalite_to_svg(dict(spec))
    return svg


def write_figures(drawn: Mapping[str, str], folder: Path) -> None:
    """Write figures, by name, as SVG and PNG."""
    folder.mkdir(exist_ok=True)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=SCALE))
