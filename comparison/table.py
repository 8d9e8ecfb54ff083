"""The table that a comparison prints and writes as Markdown."""

from collections.abc import Mapping
from typing import Any

from comparison.versus_first import METRICS as VERSUS_FIRST

COLUMNS = {
    "alignment_score": "AS",
    "alignment_score_seen_questions": "seen questions",
    "alignment_score_new_questions": "new questions",
    "worst_group": "worst group",
    "worst_decile": "worst decile",
    "gap": "gap",
    "cov": "CoV",
    "fairness_index": "FI",
    "top_option_accuracy": "top option",
    "calibration_error": "calibration error",
    "rounds_to_95": "rounds to 95 %",
    "steps_to_95": "steps to 95 %",
    "rounds_to_95_of_gain": "rounds to 95 % of gain",
    "steps_to_95_of_gain": "steps to 95 % of gain",
}
COSTS = {
    "optimizer_steps": "optimizer steps",
    "episodes": "episodes",
    "seconds": "seconds",
    "megabytes": "MB sent",
}
_ROLES = {"held_out": "Held-out groups", "train": "Training groups (held-back questions)"}


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return all tables of a comparison."""
    parts = []
    if missing := results["missing_cells"]:
        parts.append(f"Not finished: {len(missing)} cells are missing ({'; '.join(missing[:5])}).")
    for role, title in _ROLES.items():
        if any(each[role] for each in results["table"].values()):
            parts.append(f"### {title}\n\n{_table(results, role, COLUMNS)}")
    parts.append(f"### Cost\n\n{_table(results, 'cost', COSTS)}")
    if results["paired"]:
        parts.append(f"### Against centralized training\n\n{_paired(results)}")
    parts += _versus_first(results)
    if results["few_shot"]:
        parts.append(f"### Number of context questions\n\n{_few_shot(results)}")
    if results["claims"]:
        parts.append(f"### The paper's claims\n\n{_claims(results)}")
    if results["privacy_note"]:
        parts.append(f"### Privacy\n\n{_privacy(results)}")
    return "\n\n".join(parts) + "\n"


def _table(results: Mapping[str, Any], role: str, columns: Mapping[str, str]) -> str:
    shown = {
        key: title
        for key, title in columns.items()
        if any(each[role].get(key) for each in results["table"].values())
    }
    rows = [
        [label, *(_cell(key, results["table"][method][role].get(key)) for key in shown)]
        for method, label in _methods(results)
        if results["table"][method][role]
    ]
    return markdown(["method", *shown.values()], rows)


def _paired(results: Mapping[str, Any]) -> str:
    labels = dict(_methods(results))
    rows = [
        [
            labels[entry["method"]],
            labels[entry["versus"]],
            entry["role"].replace("_", "-"),
            _interval(entry["difference"], "+.4f"),
            "-" if entry["p_value"] is None else f"{entry['p_value']:.3f}",
            str(entry["num_groups"]),
        ]
        for entry in results["paired"]
    ]
    titles = ["method", "against", "groups", "difference in AS", "p", "number of groups"]
    return f"{markdown(titles, rows)}\n\n{results['paired_test']}"


def _versus_first(results: Mapping[str, Any]) -> list[str]:
    """Return one table for each role in which strategies are compared with the first."""
    labels = dict(_methods(results))
    compared = results["versus_first"]
    parts = []
    for role, methods in compared["roles"].items():
        rows = [
            [labels[method], *(_interval(entry[key], "+.4f") for key in VERSUS_FIRST)]
            for method, entry in methods.items()
        ]
        title = f"### Against {labels[compared['versus']]}: {_ROLES[role]}"
        table = markdown(["method", *(COLUMNS[key] for key in VERSUS_FIRST)], rows)
        parts.append(f"{title}\n\n{table}\n\n{compared['note']}")
    return parts


def _few_shot(results: Mapping[str, Any]) -> str:
    sizes = sorted({int(size) for curve in results["few_shot"].values() for size in curve})
    rows = [
        [label, *(_interval(results["few_shot"][method].get(str(size)), ".3f") for size in sizes)]
        for method, label in _methods(results)
        if method in results["few_shot"]
    ]
    return f"{markdown(['method', *map(str, sizes)], rows)}\n\n{results['few_shot_note']}"


def _claims(results: Mapping[str, Any]) -> str:
    rows = [
        [
            claim["claim"],
            claim["versus"],
            claim["paper"],
            f"{_interval(claim['measured'], '+.3g')} {claim['unit']}",
            f"**{claim['verdict']}**: {claim['explanation']}",
        ]
        for claim in results["claims"]
    ]
    return markdown(["claim", "against", "paper", "measured", "verdict"], rows)


def _privacy(results: Mapping[str, Any]) -> str:
    rows = []
    for method, label in _methods(results):
        if entry := results["privacy"].get(method):
            epsilon = entry["epsilon"]
            rows.append(
                [
                    label,
                    "infinite" if epsilon is None else f"{epsilon:.4g}",
                    f"{entry['delta']:.3g}",
                    *(entry[key] for key in ("unit", "relation", "sampling", "accountant")),
                    "; ".join(entry["excludes"]),
                ]
            )
    titles = ["method", "epsilon", "delta", "unit", "relation", "sampling", "accountant"]
    parts = [markdown([*titles, "not covered"], rows)] if rows else []
    return "\n\n".join([*parts, results["privacy_note"]])


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _methods(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and label of the methods that have results, in order."""
    return [(m["name"], m["label"]) for m in results["methods"] if m["name"] in results["table"]]


def _cell(key: str, value: Mapping[str, Any] | None) -> str:
    whole = key.startswith(("rounds", "steps", "optimizer", "episodes", "seconds"))
    return _interval(value, ",.1f" if whole else ",.2f" if key == "megabytes" else ".4f")


def _interval(value: Mapping[str, Any] | None, form: str) -> str:
    """Return `mean [low, high]`."""
    if value is None or value["mean"] is None:
        return "-"
    text = format(value["mean"], form)
    if value["low"] is None or value["low"] == value["high"]:
        return text
    return f"{text} [{format(value['low'], form)}, {format(value['high'], form)}]"
