"""Axes, scales and legends that the charts share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from report.numbers import MINUS
from report.theme import CONFIG, Style

Spec = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """A quantitative axis.

    Attributes:
        field: of the data.
        title: with the unit.
        format: of tick labels and tooltips (d3-format).
        zero: whether it starts at zero.
        domain: fixed limits.
        ordinal: values are labels, evenly spaced, in this order.
        whole: ticks are whole numbers.
    """

    field: str
    title: str
    format: str = ""
    zero: bool = False
    domain: tuple[float, float] | None = None
    ordinal: Sequence[str] = ()
    whole: bool = False


SCORE = Axis("mean", f"Alignment score (1 {MINUS} Jensen-Shannon distance)", "~f")


def filtered(chart: alt.Chart, where: Mapping[str, str] | None) -> alt.Chart:
    """Keep the rows that have these values."""
    # Predicates as objects: names come from the user's data and are never read as code.
    for field, value in (where or {}).items():
        chart = chart.transform_filter(alt.FieldEqualPredicate(field=field, equal=value))
    return chart


def scale_of(axis: Axis) -> alt.Scale:
    """Return the scale of a quantitative axis."""
    if axis.domain:
        return alt.Scale(domain=list(axis.domain))
    return alt.Scale(zero=axis.zero)


def across(axis: Axis) -> alt.X:
    """Return the horizontal encoding."""
    if axis.ordinal:
        return alt.X(
            f"{axis.field}:O",
            title=axis.title,
            sort=list(axis.ordinal),
            axis=alt.Axis(labelAngle=0),
            scale=alt.Scale(type="point", padding=0.3),
        )
    return alt.X(f"{axis.field}:Q", title=axis.title, scale=scale_of(axis), axis=_ticks(axis))


def upward(axis: Axis) -> alt.Y:
    """Return the vertical encoding."""
    return alt.Y(f"{axis.field}:Q", title=axis.title, scale=scale_of(axis), axis=_ticks(axis))


def _ticks(axis: Axis) -> alt.Axis:
    return alt.Axis(
        format=axis.format or alt.Undefined, tickMinStep=1 if axis.whole else alt.Undefined
    )


def legend_of(series: Sequence[Style]) -> tuple[alt.Color, alt.Shape, alt.StrokeDashValue]:
    """Return colour, shape and dashes of the series, with one legend in their order."""
    labels = [style.label for style in series]
    legend = alt.Undefined if len(series) > 1 else None  # one needs no legend

    def scale(values: list[Any]) -> alt.Scale:
        return alt.Scale(domain=labels, range=values)

    return (
        alt.Color(
            "label:N", title=None, legend=legend, scale=scale([style.colour for style in series])
        ),
        alt.Shape(
            "label:N", title=None, legend=legend, scale=scale([style.shape for style in series])
        ),
        # Conditions make no legend: a symbol of a few pixels cannot show dashes.
        alt.StrokeDashValue(
            [1, 0],
            condition=[
                {"test": {"field": "label", "equal": style.label}, "value": list(style.dash)}
                for style in series
            ],
        ),
    )


def finished(chart: alt.LayerChart | alt.FacetChart, height: int) -> Spec:
    """Return a chart as a spec of the page: as wide as its container."""
    # Parts are validated as they are made; the whole, which takes longer, by the tests.
    spec: Spec = chart.properties(width="container", height=height).to_dict(validate=False)
    spec["config"] = CONFIG
    spec.pop("$schema")  # its version is that of the library in the page
    return spec
