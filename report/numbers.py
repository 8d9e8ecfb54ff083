"""Numbers as a reader wants to see them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from report.blocks import Cell

NONE = "\N{EN DASH}"
"""Stands where a number does not apply."""

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        key: its name in the files.
        heading: its name for the reader.
        digits: after the point.
        higher: is better; None when neither is.
        percent: shown as a percentage.
        unit: behind the heading.
    """

    key: str
    heading: str
    digits: int = 3
    higher: bool | None = True
    percent: bool = False
    unit: str = ""

    def show_interval(self, low: float | None, high: float | None) -> str:
        """Return an interval as text; empty where there is none, or none of any width."""
        if low is None or high is None or self.show(low) == self.show(high):
            return ""
        first = self.show(low).removesuffix(" %")
        joint = " to " if min(low, high) < 0 else NONE
        return f"{first}{joint}{self.show(high)}"

    @property
    def hint(self) -> str:
        """Which direction is better, and the unit."""
        better = {True: "higher is better", False: "lower is better", None: ""}[self.higher]
        return ", ".join(part for part in (self.unit, better) if part)

    def show(self, value: float | None) -> str:
        """Return a value as text."""
        if value is None:
            return NONE
        return (
            number(100 * value, self.digits) + " %" if self.percent else number(value, self.digits)
        )


ROLE_METRICS = (
    Metric("alignment_score", "Alignment score"),
    Metric("alignment_score_seen_questions", "Seen questions"),
    Metric("alignment_score_new_questions", "New questions"),
    Metric("worst_group", "Worst group"),
    Metric("worst_decile", "Worst decile"),
    Metric("cov", "CoV", 4, higher=False),
    Metric("fairness_index", "Fairness index", 4),
    Metric("top_option_accuracy", "Top option", 1, percent=True),
    Metric("calibration_error", "Calibration error", higher=False),
)
SPEED_METRICS = (
    Metric("rounds_to_95", "Rounds to 95 %", 1, higher=False),
    Metric("steps_to_95", "Steps to 95 %", 0, higher=False),
)
GAIN_METRICS = (
    Metric("rounds_to_95_of_gain", "Rounds to 95 % of the gain", 1, higher=False),
    Metric("steps_to_95_of_gain", "Steps to 95 % of the gain", 0, higher=False),
)
COST_METRICS = (
    Metric("rounds", "Rounds", 0, higher=None),
    Metric("optimizer_steps", "Optimizer steps", 0, higher=None),
    Metric("episodes", "Episodes", 0, higher=None),
    Metric("seconds", "Time", 1, higher=None, unit="seconds"),
    Metric("megabytes", "Traffic", 1, higher=None, unit="megabytes"),
)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a true minus sign and grouped thousands."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:,.{digits}f}"
    negative = text.startswith("-") and float(text.replace(",", "")) != 0
    return (MINUS if negative else "") + text.lstrip("-")


def counted(count: int, what: str) -> str:
    """Return a number of things: `1 round`, `2 rounds`."""
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"


def shown_setting(value: object) -> str:
    """Return a setting's value as TOML would have it, without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else "(empty)"


def interval(low: float | None, high: float | None, show: Any = number) -> str:
    """Return an interval as text, empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{show(low)} to {show(high)}"


def mean_of(entry: Mapping[str, Any] | None) -> float | None:
    """Return the mean of a contract's INTERVAL."""
    return None if entry is None else entry.get("mean")


def digits_for(entry: Mapping[str, Any]) -> int:
    """Return how many digits an INTERVAL of any size needs."""
    size = max(abs(entry.get(key) or 0) for key in ("mean", "low", "high"))
    return next((digits for least, digits in ((10, 1), (1, 2), (0.01, 3)) if size >= least), 4)


def spelled(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return an INTERVAL inside a sentence: `0.790 (0.781 to 0.799)`."""
    if entry is None or entry.get("mean") is None:
        return NONE
    text = interval(entry.get("low"), entry.get("high"), lambda value: number(value, digits))
    return number(entry["mean"], digits) + (f" ({text})" if text else "")


def metric_column(
    metric: Metric, entries: Sequence[Mapping[str, Any] | None], *, mark_best: bool = True
) -> list[Cell]:
    """Return a column of cells, the best of them marked.

    Args:
        metric: how to show it and which direction is better.
        entries: an INTERVAL for every row; None where it does not apply.
        mark_best: whether rows compare.
    """
    means = [mean_of(entry) for entry in entries]
    known = [mean for mean in means if mean is not None]
    best: str | None = None
    if mark_best and len(known) > 1 and metric.higher is not None:
        best = metric.show(max(known) if metric.higher else min(known))
        if all(metric.show(mean) == best for mean in known):
            best = None  # nothing to choose between
    cells = []
    for entry, mean in zip(entries, means, strict=True):
        entry = entry or {}
        detail = metric.show_interval(entry.get("low"), entry.get("high"))
        text = metric.show(mean)
        cells.append(Cell(text, detail, best=mean is not None and text == best))
    return cells
