"""What the round monitor remembers from one evaluation to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from task.metrics import GroupScores


@dataclass
class Progress:
    """The last evaluation and the best one so far.

    Attributes:
        scores: group to scores, of the last evaluation.
        noisy: noisy means of the last evaluation, if no more may be told.
        personal: scores of groups' own parameters in the last evaluation, if they have any.
        evaluated_round: the round of the last evaluation.
        best: highest mean alignment score of the training groups so far.
        best_round: the round that it is of.
        best_scores: group to scores in that round.
        best_parameters: those after that round; None: no round was the best.
    """

    scores: dict[str, GroupScores] = field(default_factory=dict)
    noisy: dict[str, Any] = field(default_factory=dict)
    personal: dict[str, Any] | None = None
    evaluated_round: int = 0
    best: float = float("-inf")
    best_round: int = 0
    best_scores: dict[str, GroupScores] = field(default_factory=dict)
    best_parameters: dict[str, Tensor] | None = None

    def improve(self, server_round: int, mean: float, parameters: dict[str, Tensor]) -> None:
        """Take the last evaluation for the best one, which was made after this round."""
        self.best, self.best_round, self.best_scores = mean, server_round, self.scores
        self.best_parameters = parameters

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return plain | {name: _plain(plain[name]) for name in ("scores", "best_scores")}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Progress":
        """Return what `state_dict` gave."""
        scores = {name: _scores(state[name]) for name in ("scores", "best_scores")}
        return cls(**{**state, **scores})


def _plain(scores: Mapping[str, GroupScores]) -> dict[str, Any]:
    return {group: each.to_metrics(disclosed=False) for group, each in scores.items()}


def _scores(plain: Mapping[str, Any]) -> dict[str, GroupScores]:
    return {group: GroupScores.from_metrics(sums) for group, sums in plain.items()}
