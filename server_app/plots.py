"""Figures of a finished run, drawn from its files alone."""

import json
from typing import Any

import matplotlib

matplotlib.use("Agg")  # the ServerApp has no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from server_app.run_directory import RunDirectory

_COLOURS = {"held_out": "#c2410c", "train": "#1d4ed8"}
MAX_NAMED_GROUPS = 60
"""With more groups than this the figure shows them without their names."""

_BASELINES = {"uniform": ":", "population_mean": "--"}


def plot_run(directory: RunDirectory) -> None:
    """Draw `plots/run.png`: alignment score per round, and per group at the end.

    A run that discloses noisy means alone has those drawn, one without any scores nothing.
    """
    file = directory.path / "metrics.jsonl"
    lines = list(map(json.loads, file.read_text().splitlines())) if file.exists() else []
    summary = json.loads((directory.path / "summary.json").read_text())
    if summary["groups"]:
        height = max(4.5, 1.5 + 0.24 * min(len(summary["groups"]), MAX_NAMED_GROUPS))
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
        _plot_rounds(left, [entry for entry in lines if "groups" in entry], summary)
        _plot_groups(right, summary["groups"])
    elif noisy := [entry for entry in lines if any(entry.get(role) for role in _COLOURS)]:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        _plot_noisy_rounds(axes, noisy)
    else:
        return
    directory.write_plot("run.png", lambda file: figure.savefig(file, dpi=150, format="png"))
    plt.close(figure)


def _plot_noisy_rounds(axes: Axes, rounds: list[dict[str, Any]]) -> None:
    for role, colour in _COLOURS.items():
        points = [entry for entry in rounds if entry.get(role)]
        if points:
            steps = [entry["round"] for entry in points]
            mean = [entry[role]["alignment_score"] for entry in points]
            label = f"{role.replace('_', '-')}, mean with noise"
            axes.plot(steps, mean, color=colour, marker="o", markersize=3, label=label)
    axes.set(title="Alignment score with noise, per round", xlabel="federated round")
    axes.set_ylabel("noisy mean over groups (1 - JS distance)")
    _legend_below(axes)
    axes.grid(alpha=0.3)


def _plot_rounds(axes: Axes, rounds: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    for role, colour in _COLOURS.items():
        points = [entry for entry in rounds if entry[role]]
        if not points:
            continue
        label = role.replace("_", "-")
        steps = [entry["round"] for entry in points]
        mean = [entry[role]["alignment_score"] for entry in points]
        worst = [entry[role]["worst_group"] for entry in points]
        axes.plot(steps, mean, color=colour, marker="o", markersize=3, label=f"{label}, mean")
        axes.plot(steps, worst, color=colour, linewidth=1, alpha=0.5, label=f"{label}, worst group")
    role = "held_out" if summary["held_out"]["model"] else "train"
    for name, style in _BASELINES.items():
        if name not in summary[role]:  # nobody has the answers that they are computed from
            continue
        score = summary[role][name]["alignment_score"]
        label = f"{role.replace('_', '-')}, {name.replace('_', ' ')}"
        axes.axhline(score, color=_COLOURS[role], linestyle=style, linewidth=1, label=label)
    axes.set(title="Alignment score per round", xlabel="federated round")
    axes.set_ylabel("alignment score (1 - JS distance)")
    _legend_below(axes)
    axes.grid(alpha=0.3)


def _plot_groups(axes: Axes, groups: dict[str, dict[str, Any]]) -> None:
    order = sorted(groups, key=lambda g: (groups[g]["role"], groups[g]["alignment_score"]))
    rows = range(len(order))
    colours = [_COLOURS[groups[group]["role"].replace("-", "_")] for group in order]
    axes.scatter([groups[g]["alignment_score"] for g in order], rows, c=colours, zorder=2)
    has_baselines = all("uniform" in groups[group] for group in order)
    if has_baselines:
        axes.plot([groups[g]["uniform"] for g in order], rows, "x", color="grey", markersize=5)
        means = [groups[g]["population_mean"] for g in order]
        axes.plot(means, rows, "|", color="black", markersize=9)
    if len(order) <= MAX_NAMED_GROUPS:
        axes.set_yticks(range(len(order)), order, fontsize=8)
    else:
        axes.set_ylabel(f"{len(order)} groups, by role and score")
    for colour, role in zip(_COLOURS.values(), ("held-out", "training"), strict=True):
        axes.plot([], [], "o", color=colour, label=f"predictor, {role} group")
    if has_baselines:
        axes.plot([], [], "x", color="grey", label="uniform")
        axes.plot([], [], "|", color="black", label="population mean")
    axes.set(title="Per group, after the last round", xlabel="alignment score")
    _legend_below(axes)
    axes.grid(alpha=0.3, axis="x")


def _legend_below(axes: Axes) -> None:
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
