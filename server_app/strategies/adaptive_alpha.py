"""Weights by how well groups have been aligned so far."""

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
from task.metrics import Fairness
from task.weighting import Weights, tilted


class AdaptiveAlpha(GroupWeighting):
    """Adaptive alpha (arXiv 2512.08786): groups count by softmax((1 - alignment so far) / T).

    The alignment so far is an exponential moving average of a group's alignment score on its own
    held-back questions. These so have a say in training, and training groups' scores on them are no
    longer of questions without any influence; held-out groups' scores are. While groups fare alike
    (their fairness index is at the threshold or above) all count the same. The paper weighs rewards
    of groups; here the weights are on their updates.

    Args:
        temperature: the paper's T: 0.1 makes a group count twice as much as one whose score is
            0.07 higher.
        decay: share of the moving average that is kept in a round; 0: the last score alone.
        fairness_threshold: fairness index from which on all groups count the same; 1: never.
        **flower_options: see Flower's FedAvg.
    """

    reports: ClassVar[tuple[str, ...]] = (records.SCORE_BEFORE,)

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        decay: float = 0.9,
        fairness_threshold: float = 1.0,
        **flower_options: Any,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature = {temperature}: expected a number above 0.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay}: expected a number from 0 to below 1.")
        if not 0 < fairness_threshold <= 1:
            raise ValueError(
                f"fairness_threshold = {fairness_threshold}: expected above 0, at most 1."
            )
        super().__init__(**flower_options)
        self.temperature = temperature
        self.decay = decay
        self.fairness_threshold = fairness_threshold
        self._alignment = Remembered(first=np.nan)

    def settings(self) -> dict[str, object]:
        """See `GroupWeighting.settings`."""
        return {
            "temperature": self.temperature,
            "decay": self.decay,
            "fairness_threshold": self.fairness_threshold,
        }

    def weigh(self, groups: Sequence[GroupResult]) -> Weights:
        """See `GroupWeighting.weigh`."""
        scores_G = reported(groups, records.SCORE_BEFORE)
        before_G = self._alignment.of(groups)
        before_G = np.where(np.isnan(before_G), scores_G, before_G)
        alignment_G = self.decay * before_G + (1 - self.decay) * scores_G
        self._alignment.keep(groups, alignment_G)
        named = {each.group: float(a) for each, a in zip(groups, alignment_G, strict=True)}
        index = Fairness.of(named).fairness_index
        if self.fairness_threshold < 1 and index >= self.fairness_threshold:
            return np.full(len(groups), 1 / len(groups))
        return tilted((1 - alignment_G) / self.temperature)
