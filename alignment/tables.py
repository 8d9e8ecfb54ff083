"""The figures of an alignment as tables."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

SHOWN_GROUPS = 40
"""Groups that are printed; `metrics.json` holds all."""


def targets_table(metrics: Mapping[str, Any]) -> Table:
    """Return one row for each target, below what it is compared with."""
    table = Table(title="Alignment scores on held-out questions, over groups")
    for title in ("policy", "mean", "worst group", "", "CoV", "FI", "win rate", "KL", "outside"):
        table.add_column(title, justify="left" if title in ("policy", "") else "right")
    for name, label in _REFERENCES.items():
        _add(table, label, metrics[name], {"outside": metrics[name].get("outside")})
    table.add_section()
    for name, entry in metrics["targets"].items():
        _add(table, name, entry["alignment"], entry)
    return table


def groups_table(metrics: Mapping[str, Any]) -> Table:
    """Return one row for each group, with its alignment score under each policy."""
    columns = {label: metrics[name]["groups"] for name, label in _REFERENCES.items()}
    columns |= {name: entry["alignment"]["groups"] for name, entry in metrics["targets"].items()}
    table = Table("group", title="Alignment scores of groups")
    for name in columns:
        table.add_column(name, justify="right")
    for group in list(metrics["base"]["groups"])[:SHOWN_GROUPS]:
        table.add_row(group, *(f"{scores[group]:.4f}" for scores in columns.values()))
    return table


_REFERENCES = {
    "uniform": "uniform",
    "base": "base model",
    "predicted": "predicted for each group",
}


def _add(table: Table, label: str, scores: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
    table.add_row(
        label,
        f"{scores['mean']:.4f}",
        f"{scores['worst']:.4f}",
        scores["worst_group"],
        f"{scores['cov']:.4f}",
        f"{scores['fairness_index']:.4f}",
        *(_number(rest.get(key)) for key in ("win_rate", "kl_answers", "outside")),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
