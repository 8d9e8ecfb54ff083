"""Figures of a comparison beyond scores: differences, few-shot behaviour, calibration."""

from collections.abc import Mapping
from typing import Any

from report.blocks import Cell, Column, Control, Figure, Row, Table, View
from report.charts import dots, lines
from report.comparison_figures import ROLES, interval_fields
from report.encodings import SCORE, Axis
from report.methods import Methods
from report.numbers import number, spelled
from report.theme import COLOURS, Style

Results = Mapping[str, Any]


def differences_figure(results: Results, methods: Methods) -> Figure:
    """Draw paired differences with their intervals and a line at zero."""
    points: list[Row] = []
    orders: dict[tuple[str, str], list[str]] = {}
    rows: list[list[Cell]] = []
    for entry in results["paired"]:
        difference = entry.get("difference") or {}
        if difference.get("mean") is None:
            continue
        name, versus, role = methods.label(entry["method"]), entry["versus"], entry["role"]
        orders.setdefault((role, versus), []).append(name)
        point = {"name": name, "label": "Difference", "role": role, "versus": versus}
        points.append({**point, **interval_fields(difference)})
        cells = (name, methods.label(versus), ROLES[role], spelled(difference, 4))
        rows.append([Cell(text) for text in cells])
    x = Axis("mean", "Difference in alignment score", "+~f", zero=True)
    series = [Style("Difference", COLOURS[0])]
    headings = ("Method", "Minus", "Groups", "Difference")
    return Figure(
        name="differences",
        description="One row per method: the mean of its paired differences, and their 95 % "
        "interval. Right of zero it scores higher than the method that it is compared with.",
        views=[
            View(
                (ROLES[role], methods.label(versus)),
                f"Difference in alignment score to {methods.label(versus)}, {ROLES[role].lower()}",
                dots(
                    order,
                    series,
                    x,
                    y_title="Method",
                    where={"role": role, "versus": versus},
                    zero_line=True,
                ),
            )
            for (role, versus), order in orders.items()
        ],
        datasets={"points": points, "zero": [{"mean": 0}]},
        controls=[
            Control("Groups", list(dict.fromkeys(ROLES[role] for role, _ in orders))),
            Control("Versus", list(dict.fromkeys(methods.label(v) for _, v in orders))),
        ],
        table=Table(
            "Paired differences in alignment score, with 95 % interval",
            [Column(heading, numeric=heading == "Difference") for heading in headings],
            rows,
        ),
    )


def few_shot_figure(results: Results, methods: Methods) -> Figure | None:
    """Draw the score over the number of context questions."""
    few_shot = results.get("few_shot") or {}
    shown = [name for name in methods.names if few_shot.get(name)]
    if not shown:
        return None
    numbers = sorted({n for name in shown for n in few_shot[name]}, key=int)
    points = [
        {"label": methods.label(name), "questions": n, **interval_fields(few_shot[name][n])}
        for name in shown
        for n in numbers
        if few_shot[name].get(n)
    ]
    x = Axis("questions", "Context questions", ordinal=numbers)
    return Figure(
        name="few-shot",
        description="One line per method with its 95 % interval. The numbers of context questions "
        "are spaced evenly.",
        views=[
            View(
                (),
                "Alignment score of held-out groups by number of context questions",
                lines(methods.styles(shown), x, SCORE),
            )
        ],
        datasets={"points": points},
        table=Table(
            "Alignment score by number of context questions, with 95 % interval",
            [Column("Method", numeric=False), *(Column(n) for n in numbers)],
            [
                [
                    Cell(methods.label(name)),
                    *(Cell(spelled(few_shot[name].get(n), 4)) for n in numbers),
                ]
                for name in shown
            ],
        ),
    )


def reliability_figure(results: Results, methods: Methods) -> Figure | None:
    """Draw true over predicted shares."""
    reliability = results.get("reliability") or {}
    shown = [name for name in methods.names if reliability.get(name)]
    if not shown:
        return None
    points = [
        {
            "label": methods.label(name),
            "predicted": entry["predicted"],
            "true": entry["true"],
            "options": entry.get("options"),
        }
        for name in shown
        for entry in reliability[name]
        if entry.get("predicted") is not None and entry.get("true") is not None
    ]
    x = Axis("predicted", "Predicted share of an option", ".1f", domain=(0, 1))
    y = Axis("true", "True share of such options", ".1f", domain=(0, 1))
    spec = lines(methods.styles(shown), x, y, diagonal=True, intervals=False, height=400)
    return Figure(
        name="reliability",
        description="One line per method over bins of the predicted share. On the dashed diagonal "
        "predictions are right on average; below it they are too high.",
        views=[View((), "True against predicted shares of options, held-out groups", spec)],
        datasets={"points": points, "diagonal": [{"predicted": i, "true": i} for i in (0, 1)]},
        narrow=True,
        table=Table(
            "True and predicted shares per bin",
            [Column("Method", numeric=False), *map(Column, ("Predicted", "True", "Options"))],
            [
                [
                    Cell(str(p["label"])),
                    Cell(number(p["predicted"], 4)),
                    Cell(number(p["true"], 4)),
                    Cell(number(p["options"], 0)),
                ]
                for p in points
            ],
        ),
    )
