"""Figures of a run directory."""

from collections.abc import Mapping, Sequence
from typing import Any

from report.blocks import Cell, Column, Control, Figure, Row, Table, View
from report.charts import bars, dots, group_lines, lines
from report.encodings import SCORE, Axis
from report.files import RunFiles
from report.numbers import number
from report.theme import COLOURS, GREY, NEUTRALS, Style

MODELS = {"model": "predictor", "population_mean": "population mean", "uniform": "uniform"}
PREDICTOR = Style("Predictor", COLOURS[0])
WORST = Style("Predictor, worst group", COLOURS[1], "square", (5, 3))
BASELINES = {
    "population_mean": Style("Population mean", NEUTRALS[0], "diamond", (7, 3)),
    "uniform": Style("Uniform", GREY, "cross", (2, 3)),
}
ROLE_STYLES = {
    "held-out": Style("Held-out group", COLOURS[1], "square"),
    "train": Style("Training group", COLOURS[0], "circle", (5, 2)),
}
ROLE_NAMES = {"held_out": "held-out groups", "train": "training groups"}
X_AXES = {
    "Rounds": Axis("round", "Federated rounds", "d", whole=True),
    "Steps": Axis("optimizer_steps", "Optimizer steps of each client", ",d", whole=True),
    "Seconds": Axis("seconds", "Time (seconds)", ",~f"),
    "Megabytes": Axis("megabytes", "Traffic of all clients, both ways (megabytes)", ",~f"),
}


def evaluated_rounds(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the evaluated rounds, with what was spent until their end.

    Adds `megabytes` and `elapsed_seconds`, summed over all rounds so far.
    """
    megabytes = seconds = 0.0
    found = []
    for entry in rounds:
        megabytes += (entry.get("megabytes_down") or 0) + (entry.get("megabytes_up") or 0)
        seconds += entry.get("seconds") or 0
        if entry.get("groups"):
            found.append({**entry, "megabytes": megabytes, "elapsed_seconds": seconds})
    return found


def _spent(run: RunFiles, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the x fields of an evaluated round."""
    steps = run.settings.get("train.local-steps", 0)
    return {
        "round": entry["round"],
        "optimizer_steps": entry["round"] * int(steps),
        "seconds": round(entry["elapsed_seconds"], 3),
        "megabytes": round(entry["megabytes"], 3),
    }


def score_figure(run: RunFiles) -> Figure:
    """Draw mean and worst group's score per round, beside the baselines."""
    points: list[Row] = []
    levels: list[Row] = []
    rows: list[list[Cell]] = []
    for entry in evaluated_rounds(run.rounds):
        for role, name in ROLE_NAMES.items():
            if not entry.get(role):
                continue
            spent = _spent(run, entry)
            mean, worst = entry[role]["alignment_score"], entry[role]["worst_group"]
            for style, value in ((PREDICTOR, mean), (WORST, worst)):
                point = {"label": style.label, "role": role, "mean": value}
                points.append({**spent, **point})
            shown = [number(spent["seconds"], 1), number(spent["megabytes"], 1)]
            cells = [str(spent["round"]), name, *shown, number(mean, 4), number(worst, 4)]
            rows.append([Cell(text) for text in cells])
    for role in ROLE_NAMES:
        for key, style in BASELINES.items():
            if scores := (run.summary.get(role) or {}).get(key):
                value = {"role": role, "label": style.label, "mean": scores["alignment_score"]}
                levels.append(value)
    roles = [role for role in ROLE_NAMES if any(point["role"] == role for point in points)]
    series = [PREDICTOR, WORST, *(s for s in BASELINES.values() if levels)]
    headings = ("Round", "Groups", "Seconds", "Megabytes", "Mean score", "Worst group")
    return Figure(
        name="alignment-score",
        description="One line for the mean of the groups and one for the group that scores worst; "
        "horizontal lines are the baselines after the last round.",
        views=[
            View(
                (ROLE_NAMES[role].capitalize(), x_name),
                f"Alignment score of {ROLE_NAMES[role]} over {axis.title[0].lower()}"
                f"{axis.title[1:]}",
                lines(
                    series, axis, SCORE, where={"role": role}, levels=bool(levels), intervals=False
                ),
            )
            for role in roles
            for x_name, axis in X_AXES.items()
        ],
        datasets={"points": points, "levels": levels},
        controls=[
            Control("Groups", [ROLE_NAMES[role].capitalize() for role in roles]),
            Control("Over", list(X_AXES)),
        ],
        table=Table(
            "Alignment score per evaluated round",
            [Column(heading, numeric=heading != "Groups") for heading in headings],
            rows,
        ),
    )


def roles_of(run: RunFiles) -> dict[str, str]:
    """Return group to role, as far as the run says."""
    return {group: str(entry.get("role", "train")) for group, entry in run.groups.items()}


def group_curves_figure(run: RunFiles) -> Figure:
    """Draw every group's score per round."""
    roles = roles_of(run)
    evaluated = evaluated_rounds(run.rounds)
    unknown = Style("Group", COLOURS[0])
    points = [
        {
            "round": entry["round"],
            "group": group,
            "label": ROLE_STYLES.get(roles.get(group, ""), unknown).label,
            "mean": value,
        }
        for entry in evaluated
        for group, value in entry["groups"].items()
        if value is not None
    ]
    groups = sorted({str(point["group"]) for point in points})
    labels = {point["label"] for point in points}
    series = [style for style in (*ROLE_STYLES.values(), unknown) if style.label in labels]
    return Figure(
        name="groups-over-rounds",
        description="One line per group; a group can be picked from the list.",
        views=[
            View(
                (),
                "Alignment score of every group over federated rounds",
                group_lines(groups, series, X_AXES["Rounds"]),
            )
        ],
        datasets={"points": points},
        table=Table(
            "Alignment score of every group per evaluated round",
            [Column("Group", numeric=False), *(Column(f"Round {e['round']}") for e in evaluated)],
            [[Cell(g), *(Cell(number(e["groups"].get(g), 4)) for e in evaluated)] for g in groups],
        ),
    )


def group_dots_figure(run: RunFiles) -> Figure:
    """Draw every group's final score beside its baselines, sorted."""
    order = sorted(run.groups, key=lambda group: -run.groups[group]["alignment_score"])
    series = [PREDICTOR, *BASELINES.values()]
    keys = ("alignment_score", *BASELINES)
    points = [
        {
            "name": group,
            "label": style.label,
            "role": entry.get("role"),
            "mean": entry.get(key),
        }
        for group, entry in run.groups.items()
        for key, style in zip(keys, series, strict=True)
        if entry.get(key) is not None
    ]
    by_role = {
        "Held-out groups": [g for g in order if run.groups[g].get("role") == "held-out"],
        "Training groups": [g for g in order if run.groups[g].get("role") == "train"],
    }
    chosen = {name: groups for name, groups in by_role.items() if groups}
    roles = {"Held-out groups": "held-out", "Training groups": "train"}
    extra = {
        "alignment_score_seen_questions": "Seen questions",
        "alignment_score_new_questions": "New questions",
        "top_option_accuracy": "Top option",
        "calibration_error": "Calibration error",
    }
    shown = {k: v for k, v in extra.items() if any(k in entry for entry in run.groups.values())}
    headings = ["Alignment score", "Population mean", "Uniform", *shown.values()]
    return Figure(
        name="groups",
        description="One row per group, sorted by the predictor's score; the thin line spans the "
        "predictor and the baselines.",
        views=[
            View(
                (name,),
                f"Alignment score of each {name.lower().removesuffix('s')}, beside its baselines",
                dots(
                    groups,
                    series,
                    SCORE,
                    y_title="Group",
                    where={"role": roles[name]},
                    intervals=False,
                ),
            )
            for name, groups in chosen.items()
        ],
        datasets={"points": points},
        controls=[Control("Groups", list(chosen))],
        table=Table(
            "Scores of every group after the last round",
            [
                Column("Group", numeric=False),
                Column("Role", numeric=False),
                *(Column(heading) for heading in headings),
            ],
            [
                [
                    Cell(group),
                    Cell(str(entry.get("role"))),
                    *(Cell(number(entry.get(key), 4)) for key in (*keys, *shown)),
                ]
                for name in chosen
                for group in chosen[name]
                for entry in [run.groups[group]]
            ],
        ),
    )


def loss_figure(run: RunFiles) -> Figure:
    """Draw the training loss per round."""
    style = Style("Training loss", COLOURS[0])
    points = [
        {"round": e["round"], "label": style.label, "loss": e["loss"]}
        for e in run.rounds
        if e.get("loss") is not None
    ]
    y = Axis("loss", "Mean training loss of the clients (nats)", "~f")
    return Figure(
        name="training-loss",
        description="One line: the mean of the clients' training losses in each round.",
        views=[
            View(
                (),
                "Training loss over federated rounds",
                lines([style], X_AXES["Rounds"], y, intervals=False, height=220),
            )
        ],
        datasets={"points": points},
        table=Table(
            "Training loss per round",
            [Column("Round"), Column("Loss")],
            [[Cell(str(p["round"])), Cell(number(p["loss"], 4))] for p in points],
        ),
    )


def communication_figure(run: RunFiles) -> Figure:
    """Draw the megabytes of every round, down and up."""
    series = [Style("Sent to clients", COLOURS[0]), Style("Sent back", COLOURS[1], "square")]
    points = [
        {"round": e["round"], "label": style.label, "megabytes": e.get(key) or 0, "order": order}
        for e in run.rounds
        for order, (key, style) in enumerate(
            zip(("megabytes_down", "megabytes_up"), series, strict=True)
        )
    ]
    y = Axis("megabytes", "Traffic of all clients (megabytes)", ",~f", zero=True)
    return Figure(
        name="traffic",
        description="A stacked bar per round: what all clients together were sent, and what they "
        "sent back.",
        views=[View((), "Traffic of each federated round", bars(series, X_AXES["Rounds"], y))],
        datasets={"points": points},
        table=Table(
            "Traffic of each round, in megabytes",
            [Column("Round"), Column("Sent to clients"), Column("Sent back")],
            [
                [
                    Cell(str(e["round"])),
                    Cell(number(e.get("megabytes_down"), 2)),
                    Cell(number(e.get("megabytes_up"), 2)),
                ]
                for e in run.rounds
            ],
        ),
    )
