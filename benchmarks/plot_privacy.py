"""Draw docs/figures/privacy.png: alignment score against epsilon, of each privacy unit.

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


def by_epsilon(rows: Sequence[Mapping[str, Any]], score: Any) -> dict[float | None, list[float]]:
    """Collect the scores of all seeds by epsilon."""
    scores: dict[float | None, list[float]] = {}
    for row in rows:
        if row.get("failure"):
            continue  # overflowed
        scores.setdefault(row["epsilon"], []).append(score(row))
    return scores


def main() -> None:
    """Draw the figure."""
    client, question, member = (
        json.loads((RESULTS / f"{unit}_privacy.json").read_text())["rows"]
        for unit in ("client", "question", "member")
    )
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    sizes = sorted({row["clients"] for row in client})
    for size, colour in zip(sizes, COLOURS, strict=False):
        rows = [row for row in client if row["clients"] == size]
        draw(left, by_epsilon(rows, lambda row: row["score"]), f"{size:,} clients", colour)
    left.axhline(float(np.mean([row["uniform"] for row in client])), color="grey", label="uniform")
    left.set(title="unit client, synthetic groups", ylabel="AS, held-out groups")
    draw(middle, by_epsilon(question, lambda row: row["score"]), "8 groups", COLOURS[0])
    uniform = [row["uniform"] for row in question]
    middle.axhline(float(np.mean(uniform)), color="grey", label="uniform")
    middle.set(title="unit question, GlobalOpinionQA")

    def member_score(row: Mapping[str, Any]) -> float:
        return float(np.mean(list(row["scores"]["noisy context"].values())))

    draw(right, by_epsilon(member, member_score), "8 groups, 1,000 respondents", COLOURS[0])
    right.axhline(float(np.mean(uniform)), color="grey", label="uniform")
    right.set(title="unit member, GlobalOpinionQA")
    for axes in (left, middle, right):
        axes.set_xlabel("epsilon (dotted: not private)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(sys.argv[1], dpi=130)


if __name__ == "__main__":
    main()
