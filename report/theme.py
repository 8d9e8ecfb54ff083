"""How figures look: colours that work on white and on dark, shapes, dashes, typography."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = ("#2f7ed8", "#d9640f", "#0f9b76", "#b8559f", "#9a8a00", "#1a94b5")
"""Categorical, at least 3:1 against white and against the dark page.

The first four are apart for the colour-blind too; shapes and dashes tell all of them apart.
"""

NEUTRALS = ("#8b7355", "#7d8590", "#9a7d8f")
"""For what does not learn."""

GREY = "#7d8590"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
DASHES = {
    "federated": (1, 0),
    "centralized": (7, 3),
    "local": (2, 2),
    "probe": (8, 3, 2, 3),
    "no-learning": (4, 4),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
INK = "#24292f"
FAINT = "#d8dee4"

CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 600,
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": FAINT,
        "tickColor": FAINT,
        "gridColor": FAINT,
        "titlePadding": 10,
        "labelPadding": 5,
        "tickSize": 4,
    },
    "axisX": {"labelFlush": True, "tickCount": 6, "titleAnchor": "end"},
    # The title stands above the axis, where it can be read without turning the head.
    "axisY": {
        "titleAngle": 0,
        "titleAlign": "left",
        "titleAnchor": "end",
        "titleBaseline": "bottom",
        "titleX": -30,
        "titleY": -10,
        "labelLimit": 190,
        "tickCount": 6,
    },
    "legend": {
        "orient": "top",
        "direction": "horizontal",
        "columns": 3,
        "labelFontSize": 12,
        "labelColor": INK,
        "labelLimit": 260,
        "symbolSize": 90,
        "symbolStrokeWidth": 2,
        "rowPadding": 4,
        "columnPadding": 18,
        "offset": 34,
    },
    "title": {
        "fontSize": 16,
        "fontWeight": 600,
        "color": INK,
        "anchor": "start",
        "frame": "group",
        "offset": 14,
    },
}
"""Vega-Lite's `config` of every figure; the page's style sheet recolours text and lines."""


@dataclass(frozen=True)
class Style:
    """How one series is drawn, the same in all figures."""

    label: str
    colour: str
    shape: str = "circle"
    dash: Sequence[int] = (1, 0)


def styles(labels: Sequence[str], kinds: Sequence[str]) -> list[Style]:
    """Return a style for every series.

    Args:
        labels: the series' names.
        kinds: a key of `DASHES` for each; `no-learning` is drawn in neutral colours.
    """
    found = []
    used = {"learning": 0, "no-learning": 0}
    for index, (label, kind) in enumerate(zip(labels, kinds, strict=True)):
        learns = "no-learning" if kind == "no-learning" else "learning"
        palette = NEUTRALS if kind == "no-learning" else COLOURS
        colour = palette[used[learns] % len(palette)]
        used[learns] += 1
        found.append(Style(label, colour, SHAPES[index % len(SHAPES)], DASHES.get(kind, (1, 0))))
    return found
