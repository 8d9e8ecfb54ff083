"""Agnostic federated learning: the mixture of groups on which the predictor does worst."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

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
    stand for the paper's one, and the last parameters are kept, not their mean over rounds.

    Args:
        weight_learning_rate: step of a group's share per unit of loss, in equal shares: the paper's
            gamma_lambda times the number of groups, so that it does not depend on that.
        **flower_options: see Flower's FedAvg.
    """

    reports: ClassVar[tuple[str, ...]] = (records.LOSS_BEFORE,)

    def __init__(self, *, weight_learning_rate: float = 0.3, **flower_options: Any) -> None:
        if not weight_learning_rate >= 0:
            raise ValueError(f"weight_learning_rate = {weight_learning_rate}: expected >= 0.")
        super().__init__(**flower_options)
        self.weight_learning_rate = weight_learning_rate
        self._shares = Remembered(first=1.0)

    def settings(self) -> dict[str, object]:
        """See `GroupWeighting.settings`."""
        return {"weight_learning_rate": self.weight_learning_rate}

    def weigh(self, groups: Sequence[GroupResult]) -> Weights:
        """Return the mixture, and move it; see `GroupWeighting.weigh`.

        Shares are kept times the number of groups: a newcomer's is that of an average group. What
        the groups of a round have together stays the same, so absent ones lose and win nothing.
        """
        num_groups = len(groups)
        shares_G = self._shares.of(groups)
        total = shares_G.sum()
        mixture_G: Weights = shares_G / total if total else np.full(num_groups, 1 / num_groups)
        step_G = self.weight_learning_rate * reported(groups, records.LOSS_BEFORE) / num_groups
        self._shares.keep(groups, project_to_simplex(mixture_G + step_G) * total)
        return mixture_G
