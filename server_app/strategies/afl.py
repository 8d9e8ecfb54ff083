"""Agnostic federated learning: the mixture of groups on which the predictor does worst."""

from collections.abc import Sequence
from typing import Any, ClassVar

from server_app.strategies.group_weighting import (
    GroupResult,
    GroupWeighting,
    Remembered,
    reported,
)
from task import records
from task.weighting import Weights, project_to_simplex


class AFL(GroupWeighting):
    """Agnostic federated learning (arXiv 1902.00146, figure 2, STOCHASTIC-AFL).

    Minimises the loss under the worst mixture of groups: w follows the mixture of the round before,
    which takes a projected gradient step towards groups with a high loss. Here several local steps
    stand for the paper's one.

    Args:
        weight_learning_rate: step of the mixture per unit of loss (the paper's gamma_lambda).
        **flower_options: see Flower's FedAvg.
    """

    reports: ClassVar[tuple[str, ...]] = (records.LOSS_BEFORE,)

    def __init__(self, *, weight_learning_rate: float = 0.1, **flower_options: Any) -> None:
        if not weight_learning_rate >= 0:
            raise ValueError(f"weight_learning_rate = {weight_learning_rate}: expected >= 0.")
        super().__init__(**flower_options)
        self.weight_learning_rate = weight_learning_rate
        self._mixture = Remembered(first=1.0)

    def settings(self) -> dict[str, object]:
        """See `GroupWeighting.settings`."""
        return {"weight_learning_rate": self.weight_learning_rate}

    def weigh(self, groups: Sequence[GroupResult]) -> Weights:
        """Return the mixture, and move it; see `GroupWeighting.weigh`.

        Kept times the number of groups, so that a newcomer's share is that of an average group.
        """
        of_all_G = self._mixture.of(groups)
        total = of_all_G.sum()
        mixture_G = of_all_G / total if total else of_all_G * 0 + 1 / len(groups)
        step_G = self.weight_learning_rate * reported(groups, records.LOSS_BEFORE)
        self._mixture.keep(groups, project_to_simplex(mixture_G + step_G) * len(groups))
        return mixture_G
