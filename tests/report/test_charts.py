from typing import Any

import altair as alt
import pytest
import vl_convert

from report.charts import DOT_STEP, bars, dots, group_lines, lines
from report.encodings import SCORE, Axis
from report.theme import COLOURS, DASHES, NEUTRALS, Style, styles

ROUNDS = Axis("round", "Federated rounds")
SERIES = [Style("first", COLOURS[0]), Style("second", COLOURS[1], "square", (4, 2))]
POINTS = [
    {"label": label, "round": i, "mean": 0.5 + i / 10, "low": 0.45, "high": 0.9, "role": "train"}
    for label in ("first", "second")
    for i in range(3)
]


def svg(spec: dict[str, Any], **datasets: list[dict[str, Any]]) -> str:
    drawn: str = vl_convert.vegalite_to_svg({**spec, "width": 400, "datasets": datasets})
    return drawn


def encodings(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [layer["encoding"] for layer in spec["layer"]]


def test_a_line_per_series_with_a_band_in_its_colour() -> None:
    drawn = svg(lines(SERIES, ROUNDS, SCORE), points=POINTS)
    assert drawn.count('aria-roledescription="line mark"') == 2
    assert drawn.count('aria-roledescription="area mark"') == 2
    for style in SERIES:
        assert style.colour in drawn
        assert f">{style.label}</text>" in drawn  # in the legend


def test_without_intervals_there_is_no_band() -> None:
    drawn = svg(lines(SERIES, ROUNDS, SCORE, intervals=False), points=POINTS)
    assert 'aria-roledescription="area mark"' not in drawn


def test_rows_are_chosen_by_their_values() -> None:
    points = [*POINTS, {**POINTS[0], "role": "other", "mean": 0.123}]
    spec = lines(SERIES[:1], ROUNDS, SCORE, where={"role": "train"})
    assert "0.123" not in svg(spec, points=points)


def test_values_to_choose_by_are_never_code() -> None:
    name = "' || alert(1) || '"
    spec = dots(["a"], SERIES, SCORE, y_title="Group", where={"role": name})
    filters = [t["filter"] for layer in spec["layer"] for t in layer.get("transform", [])]
    assert {"field": "role", "equal": name} in filters
    assert all(isinstance(each, dict) for each in filters)


def test_levels_are_lines_across() -> None:
    levels = [{"label": "second", "mean": 0.6}]
    drawn = svg(lines(SERIES, ROUNDS, SCORE, levels=True), points=POINTS[:3], levels=levels)
    assert drawn.count('aria-roledescription="rule mark"') == 1


def test_a_single_series_needs_no_legend() -> None:
    assert "role-legend" not in svg(lines(SERIES[:1], ROUNDS, SCORE), points=POINTS[:3])


def test_ordinal_values_are_spaced_evenly_and_zero_is_one_of_them() -> None:
    x = Axis("n", "Context questions", ordinal=["0", "5", "100"])
    points = [
        {"label": "first", "n": n, "mean": 0.5, "low": 0.4, "high": 0.6} for n in ("5", "100", "0")
    ]
    drawn = svg(lines(SERIES[:1], x, SCORE), points=points)
    assert drawn.index(">0</text>") < drawn.index(">5</text>") < drawn.index(">100</text>")


def test_every_group_has_a_line_and_can_be_highlighted() -> None:
    groups = [f"group {i}" for i in range(5)]
    points = [
        {"group": group, "label": "first", "round": i, "mean": 0.5}
        for group in groups
        for i in (0, 1)
    ]
    spec = group_lines(groups, SERIES, ROUNDS)
    assert svg(spec, points=points).count('aria-roledescription="line mark"') == 5
    bound = next(p["bind"] for p in spec["params"] if isinstance(p.get("bind"), dict))
    assert bound["options"] == [None, *groups]


def test_dot_plots_keep_their_order_and_grow_with_the_groups() -> None:
    order = [f"g{i}" for i in range(60)]
    points = [
        {"name": name, "label": "first", "mean": 0.5, "low": 0.4, "high": 0.6} for name in order
    ]
    spec = dots(order[::-1], SERIES, SCORE, y_title="Group")
    assert spec["height"] == 60 * DOT_STEP
    drawn = svg(spec, points=points)
    assert drawn.index(">g59</text>") < drawn.index(">g0</text>")  # none is left out


def test_bars_are_stacked() -> None:
    points = [
        {"label": label, "round": 1, "mean": 2.0, "order": order}
        for order, label in enumerate(("first", "second"))
    ]
    drawn = svg(bars(SERIES, ROUNDS, Axis("mean", "Megabytes", zero=True)), points=points)
    assert drawn.count('aria-roledescription="bar"') == 2
    assert ">4</text>" in drawn or ">4.0</text>" in drawn  # the axis reaches the sum


@pytest.mark.parametrize(
    "spec",
    [
        lines(SERIES, ROUNDS, SCORE),
        group_lines(["a"], SERIES, ROUNDS),
        dots(["a"], SERIES, SCORE, y_title="Group", zero_line=True),
        bars(SERIES, ROUNDS, SCORE),
    ],
)
def test_specs_are_valid_and_all_axes_have_titles_and_legends_can_be_clicked(
    spec: dict[str, Any],
) -> None:
    alt.LayerChart.from_dict(spec)  # validates all of it
    for encoding in encodings(spec):
        assert all(encoding[axis]["title"] for axis in ("x", "y") if axis in encoding)
    assert any(param.get("bind") == "legend" for param in spec["params"])


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("page", ["#ffffff", "#14181d"])
@pytest.mark.parametrize("colour", [*COLOURS, *NEUTRALS])
def test_colours_stand_out_from_both_pages(colour: str, page: str) -> None:
    low, high = sorted((luminance(colour), luminance(page)))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_methods_are_told_apart_without_colour() -> None:
    kinds = ["federated", "federated", "centralized", "local", "probe", "no-learning"]
    given = styles([f"m{i}" for i in range(6)], kinds)
    assert len({(style.colour, style.shape) for style in given}) == 6
    assert given[2].dash == DASHES["centralized"]
    assert given[5].colour in NEUTRALS
