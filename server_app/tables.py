"""What a run prints: a row a round, and at the end a row a group."""

from collections.abc import Mapping
from typing import Any

_HEADER = (
    "round     loss  AS train  AS held-out  worst {role} group            FI"
    "       s   MB down   MB up"
)


class RoundTable:
    """Prints the rows; fairness columns are over held-out groups, or training groups if none."""

    def __init__(self, *, has_held_out: bool) -> None:
        self._role = "held_out" if has_held_out else "train"
        self._printed_header = False

    def print_row(self, server_round: int, metrics: Mapping[str, Any]) -> None:
        """Print one round."""
        if not self._printed_header:
            role = self._role.replace("_", "-")
            print("\n" + _HEADER.format(role=role), flush=True)
            self._printed_header = True
        fairness = metrics.get(self._role)
        worst = ""
        if fairness:
            worst = f"{fairness['worst_group']:.4f} {fairness['worst_group_name'][:22]}"
        print(
            f"{server_round:5d}  {_cell(metrics['loss'], 7)}  {_score(metrics, 'train'):>8}"
            f"  {_score(metrics, 'held_out'):>11}  {worst:<30}"
            f"{_cell(fairness and fairness['fairness_index'], 7)}"
            f"  {metrics['seconds']:6.1f}  {metrics['megabytes_down']:8.1f}"
            f"  {metrics['megabytes_up']:6.1f}",
            flush=True,
        )
        for kind in ("failures", "evaluation_failures"):
            for client, reason in metrics.get(kind, {}).items():
                what = "evaluation" if kind == "evaluation_failures" else "training"
                print(f"       {what} without {client}: {reason}", flush=True)

    def print_groups(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Print one row per group, best first within each role, beside the baselines."""
        width = max(len("group"), *(len(group) for group in groups))
        print(
            f"\n{'group':<{width}}  role       AS      seen q.  new q.   uniform  population mean",
            flush=True,
        )
        order = sorted(groups, key=lambda g: (groups[g]["role"], -groups[g]["alignment_score"]))
        for group in order:
            entry = groups[group]
            print(
                f"{group:<{width}}  {entry['role']:<8}  {_cell(entry['alignment_score'], 6)}"
                f"  {_cell(entry['alignment_score_seen_questions'], 7)}"
                f"  {_cell(entry['alignment_score_new_questions'], 6)}"
                f"  {_cell(entry['uniform'], 8)}  {_cell(entry['population_mean'], 15)}",
                flush=True,
            )

    def print_summary(self, summary: Mapping[str, Any]) -> None:
        """Print the macro means and fairness indices per role."""
        print(
            "\n                            AS      seen q.  new q.   worst    CoV     FI",
            flush=True,
        )
        for role in ("held_out", "train"):
            for name, entry in summary[role].items():
                if entry:
                    label = f"{role.replace('_', '-')} {name.replace('_', ' ')}"
                    print(
                        f"{label:<26}  {_cell(entry['alignment_score'], 6)}"
                        f"  {_cell(entry['alignment_score_seen_questions'], 7)}"
                        f"  {_cell(entry['alignment_score_new_questions'], 6)}"
                        f"  {_cell(entry['worst_group'], 7)}  {_cell(entry['cov'], 6)}"
                        f"  {_cell(entry['fairness_index'], 6)}",
                        flush=True,
                    )


def _score(metrics: Mapping[str, Any], role: str) -> str:
    entry = metrics.get(role)
    return _cell(entry and entry["alignment_score"], 6).strip()


def _cell(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.4f}':>{width}}"
