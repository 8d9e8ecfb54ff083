"""Aggregation of groups' rewards: one score per response from the scores of several groups.

Scores are log-odds (`task.reward.RewardModel.scores` with `against`). Every rule gives log-odds
back: where all groups agree, it gives what they say.

Suffixes: B responses, G groups.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from task.errors import ConfigError, suggest
from task.metrics import Fairness
from task.weighting import tilted

Scores = NDArray[np.floating]


class Aggregation(Protocol):
    """A rule."""

    def __call__(self, scores_BG: Scores, groups: Sequence[str]) -> Scores:
        """Return (B,) scores of responses, given those of the groups."""


def aggregate(rule: Aggregation, scores_BG: Scores, groups: Sequence[str]) -> Scores:
    """Return (B,) scores by a rule; columns of NaN, of groups that did not answer, are left out."""
    there_G = np.asarray(~np.isnan(scores_BG).any(axis=0))
    names = [group for group, there in zip(groups, there_G, strict=True) if there]
    return rule(scores_BG[:, there_G], names)


def mean(scores_BG: Scores, groups: Sequence[str]) -> Scores:
    """Return the mean over groups: the utilitarian choice."""
    return np.asarray(scores_BG.mean(axis=1))


def minimum(scores_BG: Scores, groups: Sequence[str]) -> Scores:
    """Return what the least content group says (maximin, Rawls; arXiv 2402.08925)."""
    return np.asarray(scores_BG.min(axis=1))


def maximum(scores_BG: Scores, groups: Sequence[str]) -> Scores:
    """Return what the most content group says."""
    return np.asarray(scores_BG.max(axis=1))


def nash(scores_BG: Scores, groups: Sequence[str]) -> Scores:
    """Return the log-odds of the geometric mean of the groups' shares (Nash 1950).

    A group's utility is the share of it that prefers the response, sigmoid(score); the product of
    utilities orders responses as their geometric mean does.
    """
    log_share_B = log_expit(np.asarray(scores_BG, dtype=np.float64)).mean(axis=1)
    # log(m / (1 - m)) with m = exp(log_share); near 1 the difference is as small as it is exact
    return np.asarray(log_share_B - np.log(np.maximum(-np.expm1(log_share_B), 1e-300)))


class AdaptiveAlpha:
    """Adaptive alpha (arXiv 2512.08786): groups count by how badly they have been served so far.

    A group's reward is the share of it that prefers a response, sigmoid(score). Its alignment so
    far is an exponential moving average, call by call, of its mean reward over the responses, and
    its weight is alpha_g = softmax_g((1 - alignment so far) / temperature). While groups fare
    alike (their fairness index is at the threshold or above) all count the same.

    Args:
        temperature: the softmax's: 0.1 makes a group count twice as much as one whose alignment is
            0.07 higher.
        decay: share of the moving average that is kept in a call; 0: this call's mean alone.
        fairness_threshold: fairness index from which on all groups count the same; 1: never.

    Attributes:
        alignment: group to its alignment so far; the state to keep between processes.
        weights: group to its weight in the last call.
    """

    def __init__(
        self, *, temperature: float = 0.1, decay: float = 0.9, fairness_threshold: float = 1.0
    ) -> None:
        for name, value, allowed, expected in (
            ("temperature", temperature, temperature > 0, "a number above 0"),
            ("decay", decay, 0 <= decay < 1, "a number from 0 to below 1"),
            (
                "fairness_threshold",
                fairness_threshold,
                0 < fairness_threshold <= 1,
                "a number above 0, at most 1",
            ),
        ):
            if not allowed:
                raise ConfigError(f"adaptive-alpha: {name} = {value}: expected {expected}.")
        self.temperature = temperature
        self.decay = decay
        self.fairness_threshold = fairness_threshold
        self.alignment: dict[str, float] = {}
        self.weights: dict[str, float] = {}

    def __call__(self, scores_BG: Scores, groups: Sequence[str]) -> Scores:
        """See `Aggregation`; remembers how the groups fared."""
        if not len(scores_BG):
            return np.zeros(0)  # nobody fared in any way
        reward_G = expit(np.asarray(scores_BG, dtype=np.float64)).mean(axis=0)
        for group, reward in zip(groups, reward_G.tolist(), strict=True):
            before = self.alignment.get(group, reward)
            self.alignment[group] = self.decay * before + (1 - self.decay) * reward
        alignment_G = np.array([self.alignment[group] for group in groups])
        alike = self.fairness_threshold < 1 and self._fairness(groups) >= self.fairness_threshold
        weights_G = (
            np.full(len(groups), 1 / len(groups))
            if alike
            else tilted((1 - alignment_G) / self.temperature)
        )
        self.weights = dict(zip(groups, weights_G.tolist(), strict=True))
        return np.asarray(scores_BG @ weights_G)

    def _fairness(self, groups: Sequence[str]) -> float:
        """Return the fairness index of the groups' alignment; of nothing but zeros it is 1."""
        alignment = {group: self.alignment[group] for group in groups}
        return Fairness.of(alignment).fairness_index if any(alignment.values()) else 1.0


AGGREGATIONS: Mapping[str, Callable[..., Aggregation]] = {
    "mean": lambda: mean,
    "min": lambda: minimum,
    "max": lambda: maximum,
    "nash": lambda: nash,
    "adaptive-alpha": AdaptiveAlpha,
}
"""Name to what makes the rule; `adaptive-alpha` takes options."""


def make_aggregation(name: str, **options: float) -> Aggregation:
    """Return a rule.

    Args:
        name: one of `AGGREGATIONS`.
        **options: of `AdaptiveAlpha`.

    Raises:
        ConfigError: there is no such rule, or it does not take these options.
    """
    if name not in AGGREGATIONS:
        raise ConfigError(
            f"Unknown aggregation {name!r}: expected one of {', '.join(AGGREGATIONS)}."
            f"{suggest(name, AGGREGATIONS)}"
        )
    try:
        return AGGREGATIONS[name](**options)
    except TypeError:
        taken = "temperature, decay, fairness_threshold" if name == "adaptive-alpha" else "none"
        raise ConfigError(
            f"Aggregation {name!r} does not take the options {', '.join(options)}: it takes "
            f"{taken}."
        ) from None
