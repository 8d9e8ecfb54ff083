"""Tables of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from report.blocks import Cell, Column, Table
from report.methods import Methods
from report.numbers import (
    COST_METRICS,
    GAIN_METRICS,
    NONE,
    ROLE_METRICS,
    SPEED_METRICS,
    Metric,
    metric_column,
    number,
    spelled,
)

ROLES = {"held_out": "Held-out groups", "train": "Training groups"}


def role_table(results: Mapping[str, Any], methods: Methods, role: str) -> Table:
    """Return all methods' scores for a role."""
    names = methods.scored(role)
    entries = [results["table"][name][role] for name in names]
    return _table(
        f"{ROLES[role]}: mean over seeds, and 95 % interval",
        methods,
        names,
        entries,
        (*ROLE_METRICS, *SPEED_METRICS),
        "★ marks the best of a column. Rounds and steps to 95 % count until a method reaches 95 % "
        "of its own final score; where nothing is federated, an epoch counts as a round. "
        f"{NONE} stands where a measure does not apply.",
    )


def cost_table(results: Mapping[str, Any], methods: Methods) -> Table | None:
    """Return what every method spent; None when nothing is known."""
    entries = {
        name: (results.get("table") or {}).get(name, {}).get("cost") for name in methods.names
    }
    speed = {
        name: (results.get("table") or {}).get(name, {}).get("held_out") or {}
        for name in methods.names
    }
    known = {
        name: {**speed[name], **entry}
        for name, entry in entries.items()
        if entry and any(entry.values())
    }
    if not known:
        return None
    values = list(known.values())
    return _table(
        "Cost of one run, and rounds and steps to 95 % of the gain on held-out groups",
        methods,
        list(known),
        values,
        (*COST_METRICS, *GAIN_METRICS),
        "The gain is what training adds to the score before the first round. Costs are means over "
        "seeds, with a 95 % interval where they vary.",
        mark_best=False,
    )


def reads_table(methods: Methods) -> Table:
    """Say whose answers every method sees."""
    rows = [
        [_name(methods, name), Cell(str(entry.get("reads", "")))]
        for name, entry in methods.entries.items()
    ]
    return Table(
        "Whose answers a method sees",
        [Column("Method", numeric=False), Column("Reads", numeric=False)],
        rows,
    )


def paired_table(results: Mapping[str, Any], methods: Methods) -> Table:
    """Return the paired differences with their p values."""
    rows = []
    for entry in results.get("paired") or []:
        p = entry.get("p_value")
        rows.append(
            [
                Cell(methods.label(entry["method"])),
                Cell(methods.label(entry["versus"])),
                Cell(ROLES[entry["role"]]),
                Cell(spelled(entry.get("difference"), 4)),
                Cell("< 0.001" if p is not None and p < 0.001 else number(p, 3)),
                Cell(str(entry.get("num_groups", NONE))),
                Cell(str(entry.get("num_seeds", NONE))),
            ]
        )
    headings = ("Method", "Minus", "Groups", "Alignment score", "p", "Number of groups", "Seeds")
    return Table(
        "Paired differences in alignment score",
        [Column(heading, numeric=index > 2) for index, heading in enumerate(headings)],
        rows,
        str(results.get("paired_test") or ""),
    )


def versus_first_tables(results: Mapping[str, Any], methods: Methods) -> list[Table]:
    """Return how the strategies differ from the first one, for each role."""
    compared = results.get("versus_first") or {}
    headings = {metric.key: metric.heading for metric in ROLE_METRICS}
    tables = []
    for role, of_method in (compared.get("roles") or {}).items():
        shown = list(next(iter(of_method.values())))
        tables.append(
            Table(
                f"{ROLES[role]}: difference to {methods.label(compared['versus'])}, and 95 % "
                "interval",
                [Column("Method", numeric=False), *(Column(headings[key]) for key in shown)],
                [
                    [_name(methods, name), *(Cell(spelled(entry[key], 4)) for key in shown)]
                    for name, entry in of_method.items()
                ],
                str(compared.get("note") or ""),
            )
        )
    return tables


def _table(
    caption: str,
    methods: Methods,
    names: Sequence[str],
    entries: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric],
    note: str = "",
    *,
    mark_best: bool = True,
) -> Table:
    """Return methods by metrics, without the metrics that no method has."""
    shown = [metric for metric in metrics if any(entry.get(metric.key) for entry in entries)]
    columns = [
        metric_column(metric, [entry.get(metric.key) for entry in entries], mark_best=mark_best)
        for metric in shown
    ]
    return Table(
        caption,
        [Column("Method", numeric=False), *(Column(m.heading, m.hint) for m in shown)],
        [[_name(methods, name), *cells] for name, *cells in zip(names, *columns, strict=True)],
        note,
    )


def _name(methods: Methods, name: str) -> Cell:
    return Cell(methods.label(name), colour=methods.style[name].colour)
