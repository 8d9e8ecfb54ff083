"""Draw docs/figures/privacy.png: what each privacy unit costs in alignment score.

python benchmarks/plot_privacy.py docs/figures/privacy.png
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results"
COLOURS = ("#1d4ed8", "#c2410c", "#047857", "#7c3aed")


def draw(
    axes: Axes, scores: Mapping[float | None, Sequence[float]], label: str, colour: str
) -> None:
    """Draw means over seeds against epsilon, smallest to largest seed as bars; a line: no noise."""
    known = sorted(epsilon for epsilon in scores if epsilon is not None)
    means = [float(np.mean(scores[epsilon])) for epsilon in known]
    below = [mean - min(scores[e]) for mean, e in zip(means, known, strict=True)]
    above = [max(scores[e]) - mean for mean, e in zip(means, known, strict=True)]
    axes.errorbar(
        known, means, yerr=[below, above], marker="o", capsize=3, color=colour, label=label
    )
    if None in scores:
        axes.axhline(float(np.mean(scores[None])), color=colour, linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(known, [f"{epsilon:g}" for epsilon in known])


def draw_clients(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw means over seeds against the number of clients; a cross: parameters overflow."""
    sizes = sorted({row["clients"] for row in rows})
    low = min(row["uniform"] for row in rows) - 0.04
    for epsilon, colour in zip((None, 8.0, 2.0), COLOURS, strict=False):
        own = [row for row in rows if row["epsilon"] == epsilon]
        label = f"epsilon {epsilon:g}" if epsilon else "not private"
        scores = {n: [r["score"] for r in own if r["clients"] == n] for n in sizes}
        ended = [n for n in sizes if scores[n] and None not in scores[n]]
        means = [float(np.mean(scores[n])) for n in ended]
        axes.plot(ended, means, marker="o", color=colour, label=label)
        lost = [n for n in sizes if None in scores[n]]
        axes.plot(lost, [low] * len(lost), "x", color=colour)
    axes.axhline(float(np.mean([row["uniform"] for row in rows])), color="grey", label="uniform")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.set(title="unit client, synthetic groups", xlabel="clients (x: parameters overflow)")
    axes.set_ylabel("AS, held-out groups")


def by_epsilon(rows: Sequence[Mapping[str, Any]], score: Any) -> dict[float | None, list[float]]:
    """Collect the scores of all seeds by epsilon."""
    scores: dict[float | None, list[float]] = {}
    for row in rows:
        scores.setdefault(row["epsilon"], []).append(score(row))
    return scores


def main() -> None:
    """Draw the figure."""
    client, question, member = (
        json.loads((RESULTS / f"{unit}_privacy.json").read_text())["rows"]
        for unit in ("client", "question", "member")
    )
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    draw_clients(left, client)
    draw(middle, by_epsilon(question, lambda row: row["score"]), "8 groups", COLOURS[0])
    uniform = [row["uniform"] for row in question]
    middle.axhline(float(np.mean(uniform)), color="grey", label="uniform")
    middle.set(title="unit question, GlobalOpinionQA")

    def member_score(row: Mapping[str, Any]) -> float:
        return float(np.mean(list(row["scores"]["noisy context"].values())))

    draw(right, by_epsilon(member, member_score), "8 groups, 1,000 respondents", COLOURS[0])
    right.axhline(float(np.mean(uniform)), color="grey", label="uniform")
    right.set(title="unit member, GlobalOpinionQA")
    for axes in (middle, right):
        axes.set_xlabel("epsilon (dotted: not private)")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(sys.argv[1], dpi=130)


if __name__ == "__main__":
    main()
