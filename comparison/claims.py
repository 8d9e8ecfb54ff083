"""What a comparison says of the paper's three claims (arXiv 2503.09925, abstract)."""

from collections.abc import Mapping
from typing import Any

from comparison.figures import interval

FASTER, BETTER = 0.46, 0.04
SAME_FAIRNESS = 0.01
"""Fairness indices that differ by less than this count as equal: FI lies in (0, 1], and those of
the paper differ by about as much between its own figures."""

VERDICTS = {
    "reproduced": "the whole interval is at or beyond the paper's figure",
    "compatible": "the interval holds the paper's figure and not 0",
    "smaller than claimed": "there is an advantage, but the whole interval is below the figure",
    "not settled": "the interval holds the paper's figure, and 0 as well",
    "not reproduced": "the interval holds 0, and the whole of it is below the paper's figure",
    "contradicted": "the whole interval is on the other side of 0",
}


def judge_claims(
    federated: Mapping[str, list[float]],
    centralized: Mapping[str, Mapping[str, list[float]]],
    *,
    intervals: bool,
) -> list[dict[str, Any]]:
    """Return one entry per claim and way to train centrally; see `comparison.results`.

    Args:
        federated: metric to its value for each seed, on held-out groups.
        centralized: what federated training is compared with, in words, to the same.
        intervals: whether there are seeds enough for intervals, and so for verdicts.
    """
    claims = []
    for versus, other in centralized.items():
        claims += [
            _claim(
                "46 % faster convergence",
                "46 %",
                versus,
                _saved(federated["rounds_to_95"], other["rounds_to_95"]),
                "fewer rounds (epochs) to 95 % of the final score",
                FASTER,
                intervals,
            ),
            _claim(
                "46 % faster convergence, in optimizer steps",
                "46 %",
                versus,
                _saved(federated["steps_to_95"], other["steps_to_95"]),
                "fewer optimizer steps to 95 % of the final score",
                FASTER,
                intervals,
            ),
            _claim(
                "4 % better alignment",
                "4 %",
                versus,
                _gained(federated["alignment_score"], other["alignment_score"]),
                "higher alignment score, relative",
                BETTER,
                intervals,
            ),
            _fairness_claim(
                versus, federated["fairness_index"], other["fairness_index"], intervals
            ),
        ]
    return claims


def verdict_on(low: float, high: float, claimed: float) -> str:
    """Return the key of `VERDICTS` for the interval of an advantage, and a claimed advantage."""
    if low >= claimed:
        return "reproduced"
    if low > 0:
        return "compatible" if high >= claimed else "smaller than claimed"
    if high < 0:
        return "contradicted"
    return "not settled" if high >= claimed else "not reproduced"


def _claim(
    claim: str,
    paper: str,
    versus: str,
    values: list[float],
    unit: str,
    claimed: float,
    intervals: bool,
) -> dict[str, Any]:
    measured = interval([100 * value for value in values], intervals=intervals)
    verdict, explanation = "one seed", "A verdict needs several seeds."
    if not values:
        verdict = "not measurable"
        explanation = "Centralized training is within 95 % of its final score before it starts."
    elif intervals:
        verdict = verdict_on(measured["low"], measured["high"], 100 * claimed)
        explanation = f"{VERDICTS[verdict][0].upper()}{VERDICTS[verdict][1:]}."
    return {
        "claim": claim,
        "paper": paper,
        "versus": versus,
        "measured": measured,
        "unit": f"% {unit}",
        "verdict": verdict,
        "explanation": explanation,
    }


def _fairness_claim(
    versus: str, federated: list[float], centralized: list[float], intervals: bool
) -> dict[str, Any]:
    """Judge equality: it is shown when the whole interval of the difference is small."""
    differences = [a - b for a, b in zip(federated, centralized, strict=True)]
    measured = interval(differences, intervals=intervals)
    verdict, explanation = "one seed", "A verdict needs several seeds."
    if intervals:
        low, high = measured["low"], measured["high"]
        if low >= -SAME_FAIRNESS and high <= SAME_FAIRNESS:
            verdict = "reproduced"
            explanation = f"The whole interval is within {SAME_FAIRNESS} of equality."
        elif low > SAME_FAIRNESS or high < -SAME_FAIRNESS:
            verdict = "contradicted"
            explanation = f"The whole interval is further than {SAME_FAIRNESS} from equality."
        else:
            verdict = "not settled"
            explanation = f"The interval reaches further than {SAME_FAIRNESS} from equality."
    return {
        "claim": "equal group fairness",
        "paper": "nearly equal FI",
        "versus": versus,
        "measured": measured,
        "unit": "difference of the fairness index",
        "verdict": verdict,
        "explanation": explanation,
    }


def _saved(federated: list[float], centralized: list[float]) -> list[float]:
    """Return the share of rounds or steps that federated training saves, for each seed.

    Empty when some curve of the centralized training is within 95 % before it starts.
    """
    if not all(centralized):
        return []
    return [1 - a / b for a, b in zip(federated, centralized, strict=True)]


def _gained(federated: list[float], centralized: list[float]) -> list[float]:
    return [a / b - 1 for a, b in zip(federated, centralized, strict=True)]
