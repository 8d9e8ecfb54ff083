"""What attacks prove about privacy: lower bounds of epsilon, to hold against what is promised.

An attack guesses of each canary whether it was among the data. Differential privacy limits how
often it can be right; one that is right more often proves that epsilon is larger. So a bound above
the promised epsilon is a mistake somewhere, with the stated confidence; one below it proves nothing
more than that this attack does not see through.

Suffixes: m canaries, n members or not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom, rankdata

Floats = NDArray[np.float64]

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
"""Rates at which `loss_threshold_attack` reports how many members it finds."""

_STEPS = 60
"""Of bisection: far below the precision that anything is reported with."""


def epsilon_lower_bound(
    num_guesses: int,
    num_correct: int,
    delta: float,
    confidence: float = 0.95,
    *,
    num_canaries: int | None = None,
) -> float:
    """Return an epsilon that a mechanism exceeds, from one run of it over many canaries.

    Each canary was among the data with probability 1/2, by a coin of its own, and each is a whole
    unit of privacy. With (epsilon, delta) for adding or removing one, correct guesses are hardly
    more than those of randomised response (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846,
    theorem 5.2 and appendix D). Runs with coins of their own may be added up, as one mechanism on
    all their canaries.

    Args:
        num_guesses: canaries that the attack made a guess about: how many, was fixed beforehand.
        num_correct: of them.
        delta: the delta of (epsilon, delta).
        confidence: probability, over the coins and the mechanism, that the bound holds.
        num_canaries: of all, those without a guess included; None: a guess was made about each.

    Returns:
        The bound, at least 0.

    Raises:
        ValueError: a number is out of its range.
    """
    total = num_guesses if num_canaries is None else num_canaries
    if not 0 <= num_correct <= num_guesses <= total:
        raise ValueError(
            f"{num_correct} correct of {num_guesses} guesses about {total} canaries: expected "
            "0 <= correct <= guesses <= canaries."
        )
    _require_probabilities(delta, confidence)

    def is_refuted(epsilon: float) -> bool:
        chance = one_run_p_value(epsilon, num_guesses, num_correct, delta, total)
        return chance < 1 - confidence

    if not is_refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while is_refuted(high):
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def one_run_p_value(
    epsilon: float, num_guesses: int, num_correct: int, delta: float, num_canaries: int
) -> float:
    """Return the largest chance of so many correct guesses under (epsilon, delta) privacy.

    That of the binomial distribution of randomised response, plus 2 m delta times the steepest
    slope by which its tail rises below the number of correct guesses.

    Args:
        epsilon: at least 0.
        num_guesses: see `epsilon_lower_bound`, and so are the others.
        num_correct: see there.
        delta: see there.
        num_canaries: m.
    """
    accuracy = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(num_correct - 1, num_guesses, accuracy))
    if not delta or not num_correct:
        return tail
    # Chances of exactly v - 1, v - 2, ..., 0 correct guesses; their sums over their number.
    chances_v = binom.pmf(np.arange(num_correct - 1, -1, -1), num_guesses, accuracy)
    slope = float((np.cumsum(chances_v) / np.arange(1, num_correct + 1)).max())
    return min(1.0, tail + 2 * num_canaries * delta * slope)


def count_correct(scores: ArrayLike, included: ArrayLike, num_guesses: int) -> int:
    """Return how many guesses are right: the highest scores are in, as many lowest are not.

    Args:
        scores: (m,) scores, higher for canaries that seem to be among the data.
        included: (m,) whether each was.
        num_guesses: how many guesses to make; of an odd number one more is that a canary is in.

    Raises:
        ValueError: more guesses than canaries, or a score that is not a number.
    """
    scores_m, included_m = _checked(scores), np.asarray(included, dtype=bool)
    if not 0 <= num_guesses <= len(scores_m) or scores_m.shape != included_m.shape:
        raise ValueError(
            f"{num_guesses} guesses about {len(scores_m)} scores of {len(included_m)} canaries: "
            "expected a score of each and at most as many guesses."
        )
    order = np.argsort(-scores_m, kind="stable")
    low = num_guesses // 2
    right = included_m[order[: num_guesses - low]].sum()
    return int(right + (~included_m[order[len(order) - low :]]).sum())


def area_under_curve(member_scores: ArrayLike, non_member_scores: ArrayLike) -> float:
    """Return the chance that a member scores above a non-member, ties counted half (AUC)."""
    members_n, others_n = _checked(member_scores), _checked(non_member_scores)
    ranks = rankdata(np.concatenate((members_n, others_n)))[: len(members_n)]
    above = ranks.sum() - len(members_n) * (len(members_n) + 1) / 2
    return float(above / (len(members_n) * len(others_n)))


def epsilon_of_rates(
    true_positives: ArrayLike,
    num_members: int,
    false_positives: ArrayLike,
    num_non_members: int,
    delta: float,
    confidence: float = 0.95,
) -> Floats:
    """Return the epsilon that an attack's error rates exceed, from independent trials.

    Privacy demands TPR <= e^epsilon FPR + delta, and the same of the two other rates. Both rates
    are taken at their worst within Clopper and Pearson's intervals, which hold together at the
    confidence (Jagielski, Ullman & Oprea 2020, arXiv 2006.07709, section 4).

    Args:
        true_positives: members that the attack finds, for one or many thresholds.
        num_members: trials with the canary among the data.
        false_positives: non-members that it takes for members, of the same shape.
        num_non_members: trials without.
        delta: the delta of (epsilon, delta).
        confidence: probability that the bound holds, for one threshold fixed beforehand.

    Returns:
        The bounds, at least 0, of the shape given.
    """
    _require_probabilities(delta, confidence)
    error = (1 - confidence) / 2
    found, wrong = np.asarray(true_positives), np.asarray(false_positives)
    # The distribution's parameters must be above 0; of 0 successes the lower bound is 0.
    tpr = np.where(found > 0, beta.ppf(error, np.maximum(found, 1), num_members - found + 1), 0.0)
    rest = num_non_members - wrong
    fpr = np.where(rest > 0, beta.ppf(1 - error, wrong + 1, np.maximum(rest, 1)), 1.0)
    with np.errstate(divide="ignore"):
        positive = np.log(np.maximum(tpr - delta, 0)) - np.log(fpr)
        negative = np.log(np.maximum(1 - fpr - delta, 0)) - np.log1p(-tpr)
    bounds: Floats = np.maximum(np.maximum(positive, negative), 0.0)
    return bounds


@dataclass(frozen=True)
class ThresholdAttack:
    """How well one threshold on a score tells members from non-members.

    Attributes:
        area: under the ROC curve, of all scores.
        balanced_accuracy: at the threshold that is best on one half, of the other half.
        true_positive_rates: false positive rate aimed at to the share of members found, likewise.
        bounds: the same rate to the lower bound of epsilon there, each at the confidence by itself.
        epsilon: lower bound at the threshold whose bound is highest on one half, of the other.
    """

    area: float
    balanced_accuracy: float
    true_positive_rates: Mapping[float, float]
    bounds: Mapping[float, float]
    epsilon: float


def loss_threshold_attack(
    member_scores: ArrayLike,
    non_member_scores: ArrayLike,
    delta: float = 0.0,
    confidence: float = 0.95,
    rates: Sequence[float] = FALSE_POSITIVE_RATES,
) -> ThresholdAttack:
    """Measure the attack that takes whatever scores at least a threshold for a member.

    Thresholds are chosen on the scores at even positions and judged by those at odd ones, without
    which bounds would not hold.

    Args:
        member_scores: (n,) scores (minus the loss, say) of independent trials with the canary, in
            an order that has nothing to do with them; at least 2.
        non_member_scores: the same of trials without it.
        delta: the delta of (epsilon, delta).
        confidence: of each bound.
        rates: false positive rates to aim at, in [0, 1].

    Raises:
        ValueError: there are fewer than two scores of a kind, or one is not a number.
    """
    members_n, others_n = _checked(member_scores), _checked(non_member_scores)
    if min(len(members_n), len(others_n)) < 2:
        raise ValueError(
            f"{len(members_n)} scores of members and {len(others_n)} of non-members: expected two "
            "of each or more, as thresholds are chosen on one half and judged by the other."
        )
    chosen = _Rates.of(members_n[::2], others_n[::2])
    judged = _Rates.of(members_n[1::2], others_n[1::2])

    def at(place: int) -> tuple[float, float, float]:
        """Return TPR, FPR and bound, on the other half, of a threshold of the first."""
        found, wrong = judged.count(chosen.thresholds[place])
        bound = float(judged.bounds(found, wrong, delta, confidence))
        return float(found / judged.num_members), float(wrong / judged.num_others), bound

    # Among so many thresholds some of the rarest look good by chance: all must hold at once.
    of_each = 1 - (1 - confidence) / len(chosen.thresholds)
    of_all = chosen.bounds(chosen.found, chosen.wrong, delta, of_each)
    shares = chosen.wrong / chosen.num_others
    tpr, fpr, _ = at(int(np.argmax(chosen.found / chosen.num_members - shares)))
    # Thresholds fall, so that the last within a rate finds the most.
    aimed = {rate: at(int(np.flatnonzero(shares <= rate)[-1])) for rate in rates}
    return ThresholdAttack(
        area=area_under_curve(members_n, others_n),
        balanced_accuracy=(tpr + 1 - fpr) / 2,
        true_positive_rates={rate: found for rate, (found, _, _) in aimed.items()},
        bounds={rate: bound for rate, (_, _, bound) in aimed.items()},
        epsilon=at(int(np.argmax(of_all)))[2],
    )


@dataclass(frozen=True)
class _Rates:
    """Scores in order; thresholds falling from infinity, and how many score at least that."""

    members: Floats
    others: Floats
    thresholds: Floats
    found: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @classmethod
    def of(cls, members_n: Floats, others_n: Floats) -> "_Rates":
        members_n, others_n = np.sort(members_n), np.sort(others_n)
        falling = np.unique(np.concatenate((members_n, others_n)))[::-1]
        thresholds = np.concatenate(([np.inf], falling))
        counts = [len(s) - np.searchsorted(s, thresholds) for s in (members_n, others_n)]
        return cls(members_n, others_n, thresholds, *counts)

    @property
    def num_members(self) -> int:
        return len(self.members)

    @property
    def num_others(self) -> int:
        return len(self.others)

    def count(self, threshold: float) -> tuple[int, int]:
        """Return how many members and others score at least that."""
        return int((self.members >= threshold).sum()), int((self.others >= threshold).sum())

    def bounds(self, found: ArrayLike, wrong: ArrayLike, delta: float, confidence: float) -> Floats:
        return epsilon_of_rates(found, self.num_members, wrong, self.num_others, delta, confidence)


def _checked(scores: ArrayLike) -> Floats:
    values: Floats = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError("Expected one row of scores, each of them a number.")
    return values


def _require_probabilities(delta: float, confidence: float) -> None:
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"delta = {delta}, confidence = {confidence}: expected a delta from 0 to below 1 and a "
            "confidence between 0 and 1."
        )
