"""Figures of a comparison; None where it has no data for one."""

from collections.abc import Mapping
from typing import Any

from report.blocks import Cell, Column, Control, Figure, Row, Table, View
from report.charts import dots, group_lines, lines
from report.encodings import SCORE
from report.methods import Methods
from report.numbers import mean_of, number, spelled
from report.run_figures import X_AXES
from report.theme import COLOURS, Style

Results = Mapping[str, Any]
ROLES = {"held_out": "Held-out groups", "train": "Training groups"}
ROLE_STYLES = {
    "held-out": Style("Held-out group", COLOURS[1], "square"),
    "train": Style("Training group", COLOURS[0], "circle", (5, 2)),
    "both": Style("Group, held out in one fold", COLOURS[2], "triangle-up"),
}
X_FIELDS = tuple(axis.field for axis in X_AXES.values())


def interval_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an INTERVAL that figures draw."""
    return {"mean": entry["mean"], "low": entry.get("low"), "high": entry.get("high")}


def curves_figure(results: Results, methods: Methods) -> Figure | None:
    """Draw every learning method's mean score over what it spent."""
    curves = results.get("curves") or {}
    learning = [name for name in methods.names if curves.get(name)]
    points: list[Row] = []
    rows: list[list[Cell]] = []
    for name in learning:
        for point in curves[name]:
            spent = {field: point.get(field) for field in X_FIELDS}
            for role in ROLES:
                if point.get(role):
                    label = {"label": methods.label(name), "role": role}
                    points.append({**label, **spent, **interval_fields(point[role])})
            texts = [number(spent[f], d) for f, d in zip(X_FIELDS, (0, 0, 1, 1), strict=True)]
            texts += [spelled(point.get(role), 4) for role in ROLES]
            rows.append([Cell(methods.label(name)), *map(Cell, texts)])
    if not points:
        return None
    roles = [role for role in ROLES if any(point["role"] == role for point in points)]
    flat = [name for name in methods.names if methods.kind(name) == "no-learning"]
    levels = [
        {"label": methods.label(name), "role": role, "mean": entry["mean"]}
        for name in flat
        for role in roles
        if (entry := methods.score(name, role))
    ]
    series = methods.styles([*learning, *flat] if levels else learning)
    return Figure(
        name="alignment-score",
        description="One line per method, its 95 % interval as a band; horizontal lines are "
        "methods that do not learn. Select a name in the legend to bring a line out.",
        views=[
            View(
                (ROLES[role], x_name),
                f"Mean alignment score of {ROLES[role].lower()} over "
                f"{axis.title[0].lower()}{axis.title[1:]}",
                lines(series, axis, SCORE, where={"role": role}, levels=bool(levels)),
            )
            for role in roles
            for x_name, axis in X_AXES.items()
        ],
        datasets={"points": points, "levels": levels},
        controls=[
            Control("Groups", [ROLES[role] for role in roles]),
            Control("Over", list(X_AXES)),
        ],
        table=Table(
            "Mean alignment score, with 95 % interval",
            [
                Column("Method", numeric=False),
                *(Column(h) for h in ("Rounds", "Steps", "Seconds", "Megabytes", *ROLES.values())),
            ],
            rows,
        ),
    )


def group_curves_figure(results: Results, methods: Methods) -> Figure | None:
    """Draw every group's score over rounds, for a method that the reader picks."""
    curves = results.get("curves") or {}
    shown = [name for name in methods.names if any(p.get("groups") for p in curves.get(name) or [])]
    if not shown:
        return None
    points: list[Row] = []
    for name in shown:
        known = (results.get("groups") or {}).get(name) or {}
        for point in curves[name]:
            for group, value in (point.get("groups") or {}).items():
                role = str((known.get(group) or {}).get("role", "held-out"))
                style = ROLE_STYLES.get(role, ROLE_STYLES["held-out"])
                entry = {"method": name, "group": group, "label": style.label, "mean": value}
                points.append({**entry, "round": point["round"]})
    labels = {point["label"] for point in points}
    series = [style for style in ROLE_STYLES.values() if style.label in labels]
    groups = sorted({str(point["group"]) for point in points})
    names = [methods.label(name) for name in shown]
    first = [point for point in points if point["method"] == shown[0]]
    rounds = sorted({int(point["round"]) for point in first})
    values = {(point["group"], point["round"]): point["mean"] for point in first}
    return Figure(
        name="groups-over-rounds",
        description="One line per group, mean over seeds; pick a method and a group.",
        views=[
            View(
                (label,),
                f"Alignment score of every group over federated rounds: {label}",
                group_lines(groups, series, X_AXES["Rounds"], where={"method": name}),
            )
            for name, label in zip(shown, names, strict=True)
        ],
        datasets={"points": points},
        controls=[Control("Method", names)],
        table=Table(
            f"Alignment score of every group: {names[0]}",
            [Column("Group", numeric=False), *(Column(f"Round {r}") for r in rounds)],
            [[Cell(g), *(Cell(number(values.get((g, r)), 4)) for r in rounds)] for g in groups],
        ),
    )


def groups_figure(results: Results, methods: Methods) -> Figure | None:
    """Draw every group's score by the methods that stand for the others, sorted by the first."""
    everything = results.get("groups") or {}
    role = "held_out" if methods.scored("held_out") else "train"
    shown = [name for name in methods.headline(role) if everything.get(name)]
    if not shown:
        return None
    first = everything[shown[0]]
    points: list[Row] = []
    for name in shown:
        for group, entry in everything[name].items():
            score = entry.get("alignment_score") or {}
            if score.get("mean") is not None:
                point = {"name": group, "label": methods.label(name), "role": entry.get("role")}
                bare = {"mean": score["mean"], "low": None, "high": None}
                points.append({**point, **(interval_fields(score) if name == shown[0] else bare)})
    orders: dict[str, list[str]] = {}
    for key in ROLE_STYLES:
        chosen = {
            group: mean_of(entry.get("alignment_score")) or 0
            for group, entry in first.items()
            if entry.get("role") == key
        }
        if chosen:
            orders[key] = sorted(chosen, key=chosen.__getitem__, reverse=True)
    names = {"held-out": "Held-out groups", "train": "Training groups", "both": "Groups"}
    return Figure(
        name="groups",
        description=f"One row per group, sorted by {methods.label(shown[0])}, whose 95 % interval "
        "is the thick line; the thin line spans the methods.",
        views=[
            View(
                (names[key],),
                f"Alignment score of each {names[key].lower().removesuffix('s')}, by method",
                dots(order, methods.styles(shown), SCORE, y_title="Group", where={"role": key}),
            )
            for key, order in orders.items()
        ],
        datasets={"points": points},
        controls=[Control("Groups", [names[key] for key in orders])],
        table=Table(
            "Alignment score of every group, with 95 % interval",
            [
                Column("Group", numeric=False),
                Column("Role", numeric=False),
                *(Column(methods.label(name)) for name in shown),
            ],
            [
                [
                    Cell(group),
                    Cell(key),
                    *(
                        Cell(spelled((everything[n].get(group) or {}).get("alignment_score"), 4))
                        for n in shown
                    ),
                ]
                for key, order in orders.items()
                for group in order
            ],
        ),
    )
