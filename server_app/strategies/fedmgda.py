"""A direction that serves all groups: the shortest combination of their updates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from server_app.strategies.group_weighting import GroupResult, GroupWeighting
from task.weighting import min_norm_weights


class FedMGDA(GroupWeighting):
    """FedMGDA+ (arXiv 2006.11489, algorithm 1 and eq. 9).

    Updates are scaled to length 1, so that no group has its way by the length of its own, and
    weighed so that their sum is the shortest: such a direction makes an acute angle with every
    update (with epsilon = 1), so no group loses. Asks clients for nothing.

    The paper's step is a number; here it is the mean length of the groups' updates times
    `server_learning_rate`, so that it follows the schedule of the local learning rates.

    Args:
        epsilon: how far a group's weight may be from an equal one; 0: equal weights.
        server_learning_rate: the step, in mean lengths of updates.
        **flower_options: see Flower's FedAvg.
    """

    def __init__(
        self, *, epsilon: float = 0.1, server_learning_rate: float = 1.0, **flower_options: Any
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon = {epsilon}: expected a number from 0 to 1.")
        if not server_learning_rate > 0:
            raise ValueError(f"server_learning_rate = {server_learning_rate}: expected > 0.")
        super().__init__(**flower_options)
        self.epsilon = epsilon
        self.server_learning_rate = server_learning_rate

    def settings(self) -> dict[str, object]:
        """See `GroupWeighting.settings`."""
        return {"epsilon": self.epsilon, "server_learning_rate": self.server_learning_rate}

    def combine(self, start_P: torch.Tensor, groups: Sequence[GroupResult]) -> torch.Tensor:
        """See `GroupWeighting.combine`."""
        updates_GP = np.stack([(each.values_P - start_P).numpy() for each in groups])
        lengths_G = np.linalg.norm(updates_GP, axis=1)
        # An update of 0 stays 0; with epsilon = 1 it gets all the weight: its group is content.
        directions_GP = updates_GP / np.where(lengths_G > 0, lengths_G, 1)[:, None]
        weights_G = min_norm_weights(
            directions_GP, np.full(len(groups), 1 / len(groups)), self.epsilon
        )
        self.group_weights = dict(
            zip((each.group for each in groups), weights_G.tolist(), strict=True)
        )
        step = self.server_learning_rate * lengths_G.mean()
        return start_P + torch.from_numpy(step * (weights_G @ directions_GP))
