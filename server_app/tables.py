"""What a run prints: a row a round, and at the end a row a group."""

from collections.abc import Mapping, Sequence
from typing import Any

from server_app.announcing import announce
from server_app.causes import cause_of

NAME_WIDTH = 22
"""Longer group names are cut in the rows of rounds."""


class RoundTable:
    """Prints the rows; fairness columns are over held-out groups, or training groups if none."""

    def __init__(self, *, has_held_out: bool) -> None:
        self._role = "held_out" if has_held_out else "train"
        self._header: list[str] | None = [
            *("round", "   loss", "AS train", "AS held-out"),
            f"worst {self._role.replace('_', '-')} group".ljust(NAME_WIDTH + 7),
            *("    FI", "     s", "MB down", " MB up"),
        ]
        self._widths = [len(title) for title in self._header]

    def print_row(self, server_round: int, metrics: Mapping[str, Any]) -> None:
        """Print one round."""
        lines = []
        if self._header:
            lines = ["", _row(self._header, self._widths)]
            self._header = None
        fairness = metrics.get(self._role) or {}
        worst = ""
        if "worst_group" in fairness:
            worst = f"{fairness['worst_group']:.4f} {fairness['worst_group_name'][:NAME_WIDTH]}"
        cells = [
            str(server_round),
            _number(metrics.get("loss")),
            _number((metrics.get("train") or {}).get("alignment_score")),
            _number((metrics.get("held_out") or {}).get("alignment_score")),
            worst.ljust(self._widths[4]),
            _number(fairness.get("fairness_index")),
            f"{metrics['seconds']:.1f}",
            _tenths(metrics.get("megabytes_down")),
            _tenths(metrics.get("megabytes_up")),
        ]
        lines.append(_row(cells, self._widths))
        told = {key: value for key, value in metrics.items() if key not in _BY_GROUP}
        announce("round", "\n".join(lines), {"round": server_round, **told})
        for what, kind in (("training", "failures"), ("evaluation", "evaluation_failures")):
            for client, reason in metrics.get(kind, {}).items():
                announce(
                    "client-failed",
                    f"       {what} without {client}: {reason}",
                    {
                        "round": server_round,
                        "phase": what,
                        "client": client,
                        "cause": cause_of(reason),
                        "reason": reason,
                    },
                    "warning",
                )


_BY_GROUP = ("groups", "group_weights", "personal", "failures", "evaluation_failures")
"""Metrics with a value for every group: too long for a line, and in `metrics.jsonl`."""

SHOWN_OF_MANY = 30
"""Groups of a role that are printed from each end of the table."""


def print_groups(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row per group, best first within each role, beside the baselines, if there are any.

    Of many groups the best and the worst are shown.
    """
    width = max(len("group"), *(len(group) for group in groups))
    known = [name for name in _BASELINES if all(name in entry for entry in groups.values())]
    shown = [name.replace("_", " ") for name in known]
    titles = ["group".ljust(width), "role    ", *_SCORE_TITLES, *shown]
    widths = [len(title) for title in titles]
    lines = ["", _row(titles, widths)]
    keys = (*_SCORE_KEYS, *known)
    for role in ("held-out", "train"):
        names = [group for group in groups if groups[group]["role"] == role]
        names.sort(key=lambda group: -groups[group]["alignment_score"])
        for place, group in enumerate(names):
            if SHOWN_OF_MANY <= place < len(names) - SHOWN_OF_MANY:
                if place == SHOWN_OF_MANY:
                    left_out = len(names) - 2 * SHOWN_OF_MANY
                    lines.append(f"... {left_out} more {role} groups in groups.parquet")
                continue
            entry = groups[group]
            scores = [_number(entry[key]) for key in keys]
            lines.append(_row([group.ljust(width), entry["role"].ljust(8), *scores], widths))
            announce("group", "\n".join(lines), {"group": group, **entry})
            lines = []


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the macro means and fairness indices per role, and whether a baseline is ahead."""
    titles = [" " * 24, *_SCORE_TITLES, " worst", "   CoV", "    FI"]
    widths = [len(title) for title in titles]
    lines = ["", _row(titles, widths)]
    entries = {
        f"{role.replace('_', '-')} {name.replace('_', ' ')}": entry
        for role in ("held_out", "train")
        for name, entry in summary[role].items()
    }
    entries["train, own parameters"] = summary.get("personal")
    keys = (*_SCORE_KEYS, "worst_group", "cov", "fairness_index")
    for label, entry in entries.items():
        if entry:
            cells = [_number(entry.get(key)) for key in keys]
            lines.append(_row([label.ljust(widths[0]), *cells], widths))
    told = {key: value for key, value in summary.items() if key not in _BY_GROUP}
    announce("summary", "\n".join(lines), told)
    reported = summary["held_out"] if summary["held_out"]["model"] else summary["train"]
    for name in _BASELINES:
        baseline = reported.get(name)
        if baseline and reported["model"]["alignment_score"] < baseline["alignment_score"]:
            announce(
                "below-baseline",
                f"\nThe predictor is below the {name.replace('_', ' ')} baseline. More training "
                "groups, more questions or more rounds may help.",
                {"baseline": name},
                "warning",
            )


_BASELINES = ("uniform", "population_mean")  # there are none where nodes alone have the data
_SCORE_TITLES = ("    AS", "seen q.", " new q.")
_SCORE_KEYS = (
    "alignment_score",
    "alignment_score_seen_questions",
    "alignment_score_new_questions",
)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return line.rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _tenths(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
