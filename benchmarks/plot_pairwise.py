"""Draw docs/figures/pairwise.png: accuracy and reliability of rewards on comparisons.

python benchmarks/plot_pairwise.py docs/figures/pairwise.png
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

RESULTS = Path(__file__).parent / "results" / "pairwise.json"
SHOWN = {
    "federated, calibrated": "#1d4ed8",
    "federated": "#93c5fd",
    "bt-mlp": "#c2410c",
    "bt-mlp-context": "#047857",
    "bt-linear": "#7c3aed",
}
FEWEST = 100
"""Bins with fewer comparisons, over all seeds, are left out."""


def main() -> None:
    """Draw both panels."""
    found = json.loads(RESULTS.read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = ["true shares", *SHOWN, "chance"]
    for row, name in enumerate(reversed(names)):
        for where, offset, colour in (("all", 0.15, "#1d4ed8"), ("new", -0.15, "#9ca3af")):
            entry = found["tables"][f"accuracy {where}"][name]
            low, high = entry["interval"]
            left.plot([low, high], [row + offset] * 2, color=colour, linewidth=2)
            label = f"{where} questions" if row == 0 else None
            left.plot(entry["mean"], row + offset, "o", color=colour, label=label)
    left.set_yticks(range(len(names)), names[::-1])
    left.set(xlabel="accuracy on comparisons of held-out groups", title="Accuracy, 95 % intervals")
    left.legend(loc="lower right")
    right.plot([0.5, 1], [0.5, 1], color="grey", linestyle=":", linewidth=1)
    for name, colour in SHOWN.items():
        table = np.sum([row["reliability"][name] for row in found["rows"]], axis=0)
        number, confidence, correct = table[:, table[0] >= FEWEST]
        right.plot(confidence / number, correct / number, "o-", color=colour, label=name)
    right.set(
        xlabel="confidence", ylabel="share of comparisons it is right in", title="Reliability"
    )
    right.legend()
    figure.savefig(sys.argv[1], dpi=120)


if __name__ == "__main__":
    main()
