import pytest

from report.numbers import (
    MINUS,
    NONE,
    ROLE_METRICS,
    Metric,
    digits_for,
    metric_column,
    number,
    spelled,
)

SCORE = ROLE_METRICS[0]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.79049, 3, "0.790"),
        (-0.0125, 3, f"{MINUS}0.013"),
        (-0.0001, 3, "0.000"),
        (12345.6, 0, "12,346"),
        (None, 3, NONE),
        (float("nan"), 3, NONE),
    ],
)
def test_numbers_have_a_true_minus_sign_and_grouped_thousands(
    value: float | None, digits: int, text: str
) -> None:
    assert number(value, digits) == text


def test_an_interval_is_spelled_behind_its_mean() -> None:
    assert spelled({"mean": 0.79, "low": 0.78, "high": 0.8}) == "0.790 (0.780 to 0.800)"
    assert spelled({"mean": 0.79, "low": None, "high": None}) == "0.790"
    assert spelled({"mean": None}) == spelled(None) == NONE


@pytest.mark.parametrize(("size", "digits"), [(36.4, 1), (-1.28, 2), (0.5, 3), (0.0007, 4)])
def test_small_numbers_get_more_digits(size: float, digits: int) -> None:
    assert digits_for({"mean": 0.0, "low": size, "high": None}) == digits


def test_intervals_in_tables_are_short_and_left_out_when_they_have_no_width() -> None:
    percent = Metric("top_option_accuracy", "", 1, percent=True)
    assert SCORE.show_interval(0.78, 0.8) == f"0.780{NONE}0.800"
    assert percent.show_interval(0.57, 0.61) == f"57.0{NONE}61.0 %"
    assert SCORE.show_interval(-0.01, 0.01) == f"{MINUS}0.010 to 0.010"
    assert SCORE.show_interval(0.79, 0.79) == SCORE.show_interval(None, None) == ""


@pytest.mark.parametrize(
    ("higher", "means", "best"),
    [
        (True, [0.5, 0.7, 0.6], [False, True, False]),
        (False, [0.5, 0.7, 0.6], [True, False, False]),
        (None, [0.5, 0.7, 0.6], [False, False, False]),
        (True, [0.7, 0.7001, 0.6], [True, True, False]),  # as the reader sees them
        (True, [0.7, 0.7, None], [False, False, False]),  # nothing to choose between
        (True, [None, 0.7, None], [False, False, False]),
    ],
)
def test_the_best_of_a_column_is_marked(
    higher: bool | None, means: list[float | None], best: list[bool]
) -> None:
    metric = Metric("x", "x", higher=higher)
    cells = metric_column(metric, [None if mean is None else {"mean": mean} for mean in means])
    assert [cell.best for cell in cells] == best
    assert [cell.text for cell in cells] == [metric.show(mean) for mean in means]


def test_rows_that_do_not_compare_have_no_best() -> None:
    cells = metric_column(SCORE, [{"mean": 0.5}, {"mean": 0.6}], mark_best=False)
    assert not any(cell.best for cell in cells)
