"""Figures of private runs: what they spent, and scores with noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from report.blocks import Cell, Column, Control, Figure, Row, Table, View
from report.charts import lines
from report.encodings import SCORE, Axis
from report.files import RunFiles
from report.noisy_scores import noise_of_means
from report.numbers import NONE, number
from report.run_figures import ROLE_NAMES, X_AXES
from report.theme import COLOURS, GREY, Style

EPSILON = Style("Epsilon", COLOURS[0])
BUDGET = Style("Budget (privacy.max-epsilon)", GREY, "cross", (7, 3))
NOISY = Style("Noisy mean", COLOURS[0])


def epsilon_figure(run: RunFiles) -> Figure | None:
    """Draw the epsilon spent by the end of each round; None where it does not grow."""
    spent = {  # a run that was stopped has two lines of its last round
        entry["round"]: entry["privacy"]["epsilon"]
        for entry in run.rounds
        if (entry.get("privacy") or {}).get("epsilon") is not None
    }
    if len(set(spent.values())) < 2:
        return None
    budget = float(run.settings.get("privacy.max-epsilon") or 0)
    points: list[Row] = [
        {"label": EPSILON.label, "round": number_, "epsilon": epsilon}
        for number_, epsilon in spent.items()
    ]
    levels: list[Row] = [{"label": BUDGET.label, "epsilon": budget}] if budget else []
    unit, delta = run.settings.get("privacy.unit"), run.settings.get("privacy.delta")
    description = f"Epsilon at delta = {delta} for one {unit}, of all releases until a round's end."
    if budget:
        description += " The horizontal line is the budget."
    series = [EPSILON, BUDGET] if budget else [EPSILON]
    y = Axis("epsilon", "Epsilon", "~f", zero=True)
    return Figure(
        name="epsilon",
        description=description,
        views=[
            View(
                (),
                "Epsilon spent over federated rounds",
                lines(
                    series, X_AXES["Rounds"], y, levels=bool(budget), intervals=False, height=240
                ),
            )
        ],
        datasets={"points": points, "levels": levels},
        table=Table(
            "Epsilon spent by the end of each round",
            [Column("Round"), Column("Epsilon")],
            [[Cell(str(p["round"])), Cell(number(p["epsilon"], 4))] for p in points],
        ),
    )


def noisy_rounds(rounds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rounds that have noisy means."""
    return [entry for entry in rounds if any(entry.get(role) for role in ROLE_NAMES)]


def noisy_score_figure(run: RunFiles) -> Figure:
    """Draw the noisy mean score per round, with what the noise may have done to it."""
    noise = noise_of_means(run.settings)
    points: list[Row] = []
    steps = int(run.settings.get("train.local-steps") or 0)
    for entry in noisy_rounds(run.rounds):
        for role in ROLE_NAMES:
            if not entry.get(role):
                continue
            mean = entry[role]["alignment_score"]
            half = 1.96 * noise.get(role, math.nan)
            known = math.isfinite(half)
            points.append(
                {
                    "label": NOISY.label,
                    "role": role,
                    "round": entry["round"],
                    "optimizer_steps": entry["round"] * steps,
                    "mean": mean,
                    "low": mean - half if known else None,
                    "high": mean + half if known else None,
                }
            )
    # The mean with the least noise first: the other may tell nothing.
    order = sorted(ROLE_NAMES, key=lambda role: noise.get(role, 0.0))
    roles = [role for role in order if any(point["role"] == role for point in points)]
    axes = {name: X_AXES[name] for name in ("Rounds", "Steps")}
    return Figure(
        name="alignment-score",
        description="One line: the mean over groups, with noise. The band is 1.96 standard "
        "deviations of the noise to each side: the exact mean is in it 95 times of 100.",
        views=[
            View(
                (ROLE_NAMES[role].capitalize(), x_name),
                f"Noisy mean alignment score of {ROLE_NAMES[role]} over {axis.title[0].lower()}"
                f"{axis.title[1:]}",
                lines([NOISY], axis, SCORE, where={"role": role}),
            )
            for role in roles
            for x_name, axis in axes.items()
        ],
        datasets={"points": points},
        controls=[
            Control("Groups", [ROLE_NAMES[role].capitalize() for role in roles]),
            Control("Over", list(axes)),
        ],
        table=Table(
            "Noisy mean alignment score per evaluated round",
            [
                Column("Round"),
                Column("Groups", numeric=False),
                Column("Noisy mean"),
                Column("95 %"),
            ],
            [
                [
                    Cell(str(p["round"])),
                    Cell(ROLE_NAMES[p["role"]]),
                    Cell(number(p["mean"], 4)),
                    Cell(
                        NONE
                        if p["low"] is None
                        else f"{number(p['low'], 3)} to {number(p['high'], 3)}"
                    ),
                ]
                for p in points
            ],
        ),
    )
