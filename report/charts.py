"""Vega-Lite specs of figures, by Altair; data are given by name and stay outside the spec."""

from collections.abc import Mapping, Sequence

import altair as alt

from report.encodings import (
    SCORE,
    Axis,
    Spec,
    across,
    filtered,
    finished,
    legend_of,
    scale_of,
    upward,
)
from report.theme import GREY, Style

DOT_STEP = 24
"""Height of a row in dot plots, in pixels."""

_PICK = "pick"
_INTERVAL_TOOLTIP = [
    alt.Tooltip("low:Q", title="from", format=".4f"),
    alt.Tooltip("high:Q", title="to", format=".4f"),
]


def lines(
    series: Sequence[Style],
    x: Axis,
    y: Axis,
    *,
    where: Mapping[str, str] | None = None,
    levels: bool = False,
    diagonal: bool = False,
    intervals: bool = True,
    height: int = 340,
) -> Spec:
    """Draw one line per series with its interval as a band.

    The dataset `points` holds `label`, the axes' fields, and with intervals `low` and `high`.

    Args:
        series: what is drawn, in the order of the legend.
        x: horizontal axis.
        y: vertical axis.
        where: fields and the values that rows must have.
        levels: also draw the dataset `levels` (`label` and y's field) as horizontal lines.
        diagonal: also draw the dataset `diagonal` (the axes' fields) as a thin line.
        intervals: draw them.
        height: in pixels.
    """
    pick = alt.selection_point(name=_PICK, fields=["label"], bind="legend")
    base = filtered(alt.Chart(alt.NamedData("points")), where)
    horizontal, vertical = across(x), upward(y)
    colour, shape, dash = legend_of(series)
    tooltip = [
        alt.Tooltip("label:N", title="Series"),
        alt.Tooltip(f"{x.field}:{'O' if x.ordinal else 'Q'}", title=x.title, format=x.format),
        alt.Tooltip(f"{y.field}:Q", title=y.title, format=".4f"),
        *(_INTERVAL_TOOLTIP if intervals else []),
    ]
    band = (
        base.transform_filter(alt.FieldValidPredicate(field="low", valid=True))
        .mark_area()
        .encode(
            horizontal,
            alt.Y("low:Q", title=y.title, scale=scale_of(y)),
            alt.Y2("high:Q"),
            colour,
            opacity=alt.when(pick).then(alt.value(0.16)).otherwise(alt.value(0.03)),
        )
    )
    faded = alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.12))
    line = (
        base.mark_line(strokeWidth=2)
        .encode(horizontal, vertical, colour, dash, opacity=faded)
        .add_params(pick)
    )
    points = base.mark_point(filled=True, size=55).encode(
        horizontal, vertical, colour, shape, opacity=faded, tooltip=tooltip
    )
    layers = [line, band, points] if intervals else [line, points]
    if levels:
        rule = (
            filtered(alt.Chart(alt.NamedData("levels")), where)
            .mark_rule(strokeWidth=2)
            .encode(vertical, colour, dash, opacity=faded, tooltip=[tooltip[0], tooltip[2]])
        )
        layers.insert(0, rule)
    if diagonal:
        thin = alt.Chart(alt.NamedData("diagonal")).mark_line(color=GREY, strokeDash=[3, 3])
        layers.insert(0, thin.encode(horizontal, vertical))
    return finished(alt.layer(*layers), height)


def group_lines(
    groups: Sequence[str],
    series: Sequence[Style],
    x: Axis,
    *,
    where: Mapping[str, str] | None = None,
    height: int = 360,
) -> Spec:
    """Draw one line per group, coloured by role; the reader can highlight a group.

    The dataset `points` holds `group`, `label` (the role), x's field and `mean`.
    """
    role = alt.selection_point(name=_PICK, fields=["label"], bind="legend")
    group = alt.selection_point(
        name="group",
        fields=["group"],
        bind=alt.binding_select(
            options=[None, *groups], labels=["All groups", *groups], name="Highlight "
        ),
    )
    base = filtered(alt.Chart(alt.NamedData("points")), where)
    colour, shape, dash = legend_of(series)
    shown = alt.when(role & group).then(alt.value(0.85)).otherwise(alt.value(0.1))
    horizontal, vertical, detail = across(x), upward(SCORE), alt.Detail("group:N")
    line = (
        base.mark_line(strokeWidth=1.75)
        .encode(horizontal, vertical, colour, dash, detail, opacity=shown)
        .add_params(role, group)
    )
    points = base.mark_point(filled=True, size=40).encode(
        horizontal,
        vertical,
        colour,
        shape,
        detail,
        opacity=shown,
        tooltip=[
            alt.Tooltip("group:N", title="Group"),
            alt.Tooltip("label:N", title="Role"),
            alt.Tooltip(f"{x.field}:Q", title=x.title, format=x.format),
            alt.Tooltip("mean:Q", title="Alignment score", format=".4f"),
        ],
    )
    return finished(alt.layer(line, points), height)


def dots(
    order: Sequence[str],
    series: Sequence[Style],
    x: Axis,
    *,
    y_title: str,
    where: Mapping[str, str] | None = None,
    intervals: bool = True,
    zero_line: bool = False,
) -> Spec:
    """Draw a row of dots for every name, one dot per series, with intervals where there are any.

    The dataset `points` holds `name`, `label`, x's field, and with intervals `low` and `high`.

    Args:
        order: the rows, from the top.
        series: the dots of a row.
        x: horizontal axis.
        y_title: what a row is.
        where: fields and the values that rows of the data must have.
        intervals: draw them.
        zero_line: draw a line where x is zero.
    """
    pick = alt.selection_point(name=_PICK, fields=["label"], bind="legend")
    base = filtered(alt.Chart(alt.NamedData("points")), where)
    colour, shape, _ = legend_of(series)
    y = alt.Y(
        "name:N",
        sort=list(order),
        title=y_title,
        axis=alt.Axis(grid=False, titleAlign="right", titleX=-6),
    )
    faded = alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.12))
    horizontal = across(x)
    spread = base.mark_rule(strokeWidth=1, color=GREY, opacity=0.45).encode(
        alt.X(f"min({x.field}):Q", title=x.title, scale=scale_of(x)),
        alt.X2(f"max({x.field}):Q"),
        y,
    )
    ranges = (
        base.transform_filter(alt.FieldValidPredicate(field="low", valid=True))
        .mark_rule(strokeWidth=2.5)
        .encode(
            alt.X("low:Q", title=x.title, scale=scale_of(x)),
            alt.X2("high:Q"),
            y,
            colour,
            opacity=faded,
        )
    )
    points = (
        base.mark_point(filled=True, size=75)
        .encode(
            horizontal,
            y,
            colour,
            shape,
            opacity=faded,
            tooltip=[
                alt.Tooltip("name:N", title=y_title),
                alt.Tooltip("label:N", title="Series"),
                alt.Tooltip(f"{x.field}:Q", title=x.title, format=".4f"),
                *(_INTERVAL_TOOLTIP if intervals else []),
            ],
        )
        .add_params(pick)
    )
    layers = [spread, ranges, points] if intervals else [spread, points]
    if zero_line:
        zero = alt.Chart(alt.NamedData("zero")).mark_rule(color=GREY, strokeDash=[3, 3])
        layers.insert(0, zero.encode(horizontal))
    return finished(alt.layer(*layers), max(DOT_STEP * len(order), 2 * DOT_STEP))


def bars(series: Sequence[Style], x: Axis, y: Axis, *, height: int = 260) -> Spec:
    """Draw stacked bars; the dataset `points` holds `label` and the axes' fields."""
    pick = alt.selection_point(name=_PICK, fields=["label"], bind="legend")
    colour = legend_of(series)[0]
    chart = (
        alt.Chart(alt.NamedData("points"))
        .mark_bar()
        .encode(
            alt.X(
                f"{x.field}:O",
                title=x.title,
                axis=alt.Axis(labelAngle=0, labelOverlap=True),
                scale=alt.Scale(paddingInner=0.4),
            ),
            upward(y),
            colour,
            alt.Order("order:Q"),
            opacity=alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.12)),
            tooltip=[
                alt.Tooltip(f"{x.field}:O", title=x.title),
                alt.Tooltip("label:N", title="Direction"),
                alt.Tooltip(f"{y.field}:Q", title=y.title, format=y.format),
            ],
        )
        .add_params(pick)
    )
    return finished(alt.layer(chart), height)
