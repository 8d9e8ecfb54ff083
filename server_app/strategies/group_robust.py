"""Group-robust weights: a group's weight grows exponentially with its cumulative loss."""

from collections.abc import Sequence
from typing import Any, ClassVar

from server_app.strategies.group_weighting import (
    GroupResult,
    GroupWeighting,
    Remembered,
    reported,
)
from task import records
from task.weighting import Weights, tilted


class GroupRobust(GroupWeighting):
    """Group-robust optimisation by mirror ascent (arXiv 2405.20304, algorithm 1; 1911.08731).

    Minimises the largest loss of any group: a group's weight is multiplied by exp(step * loss) in
    every round, then the predictor moves with the new weights. The paper trains one language model
    centrally by preference optimisation; its weights are used on the groups' updates here.

    Args:
        weight_learning_rate: step per unit of loss (the papers' eta_alpha and eta_q).
        **flower_options: see Flower's FedAvg.
    """

    reports: ClassVar[tuple[str, ...]] = (records.LOSS_BEFORE,)

    def __init__(self, *, weight_learning_rate: float = 0.1, **flower_options: Any) -> None:
        if not weight_learning_rate >= 0:
            raise ValueError(f"weight_learning_rate = {weight_learning_rate}: expected >= 0.")
        super().__init__(**flower_options)
        self.weight_learning_rate = weight_learning_rate
        self._exponents = Remembered(first=0.0)

    def settings(self) -> dict[str, object]:
        """See `GroupWeighting.settings`."""
        return {"weight_learning_rate": self.weight_learning_rate}

    def weigh(self, groups: Sequence[GroupResult]) -> Weights:
        """Move the weights, and return them; see `GroupWeighting.weigh`.

        What is kept of a group is the sum of its steps, so rounds without it change nothing: where
        cohorts are drawn, groups that are drawn more often have taken more steps.
        """
        step_G = self.weight_learning_rate * reported(groups, records.LOSS_BEFORE)
        exponents_G = self._exponents.of(groups) + step_G
        self._exponents.keep(groups, exponents_G)
        return tilted(exponents_G)
