"""Which metrics a reply must and may have, and what each of them may be."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from server_app.metadata import is_train
from task import records
from task.config import RunConfig
from task.metrics import NUM_BINS, SCORE_RANGE

TRAIN_METRICS = (records.NUM_EXAMPLES, records.LOSS)
_SCORES = (records.SCORES_ALL, records.SCORES_SEEN, records.SCORES_NEW, records.TOP_OPTION)
EVALUATE_METRICS = (*_SCORES, records.CALIBRATION)
_NEVER_EMPTY = (records.SCORES_ALL, records.SCORE_BEFORE, records.PERSONAL_SCORE)
_PAIRS = (*_SCORES, records.SCORE_BEFORE, records.PERSONAL_SCORE)
_OURS = (*_PAIRS, records.CALIBRATION, records.LOSS_BEFORE, records.EPSILON, records.NOISY_SCORE)
RESERVED = frozenset((*_OURS, records.WITHIN_NORM))
"""What the server acts upon: refused where the run does not ask for it."""

LARGEST_LOSS, LARGEST_COUNT, LARGEST_EPSILON = 1e6, 1e9, 1e6
DEVIATIONS = 10.0
"""Standard deviations from the range of scores within which every noisy one lies."""
MAX_OTHERS = 32
"""Metrics of a user's own ClientApp that a reply may have besides, each one finite number."""

Value = int | float | list[int] | list[float]


class ReplyError(Exception):
    """Why a reply must not be aggregated."""


@dataclass(frozen=True)
class MetricRules:
    """What a run expects of the metrics of replies.

    Attributes:
        train: those that a reply to `train` must have; a strategy may ask for more (`reports`).
        evaluate: those that a reply to `evaluate` must have.
        optional: those that a reply of either kind may have besides.
        largest_epsilon: most that a client can have spent.
        largest_noisy_score: largest magnitude of a score with noise.
        num_draws: context draws, each of which scores every question once.
        num_questions: client id to the number of questions that it disclosed, which it cannot
            have more examples than; a client that is not there may have any number.
    """

    train: Collection[str] = TRAIN_METRICS
    evaluate: Collection[str] = EVALUATE_METRICS
    optional: Collection[str] = ()
    largest_epsilon: float = LARGEST_EPSILON
    largest_noisy_score: float = math.inf
    num_draws: int = 1
    num_questions: Mapping[int, int] | None = None

    @classmethod
    def of(cls, config: RunConfig, num_questions: Mapping[int, int] | None = None) -> "MetricRules":
        """Return the rules of a run."""
        privacy, num_draws = config.privacy, config.evaluation.num_draws
        if privacy.unit != "question":
            return cls(num_draws=num_draws, num_questions=num_questions)
        hidden = privacy.metrics != "full"
        spread = privacy.metrics_noise_multiplier * (SCORE_RANGE[1] - SCORE_RANGE[0])
        return cls(
            train=(records.NUM_EXAMPLES,) if hidden else TRAIN_METRICS,
            evaluate=((records.NUM_EXAMPLES, records.NOISY_SCORE) if hidden else EVALUATE_METRICS),
            optional=(records.EPSILON,),
            largest_epsilon=privacy.max_epsilon or LARGEST_EPSILON,
            largest_noisy_score=1 + DEVIATIONS * spread,
            num_draws=num_draws,
            num_questions=num_questions,
        )

    def accept(self, message: Message, reply: RecordDict, *, reduced: bool = False) -> None:
        """Check the metrics of a reply.

        Args:
            message: to the client, as the strategy sent it.
            reply: what came back.
            reduced: the grid below has clipped the update and says whether that was needed.

        Raises:
            ReplyError: it must not be aggregated.
        """
        settings = message.content.config_records.get(records.CONFIG, ConfigRecord())
        most: float = (self.num_questions or {}).get(message.metadata.dst_node_id, math.inf)
        required, optional = list(self.evaluate), list(self.optional)
        if is_train(message):
            required = [*self.train, *settings.get(records.REPORTS, [])]  # type: ignore[misc]
            optional += [records.WITHIN_NORM] if reduced else []
        elif records.PERSONAL in settings:
            optional.append(records.PERSONAL_SCORE)
        largest = dict.fromkeys(_OURS, most * self.num_draws) | {
            records.NUM_EXAMPLES: most if is_train(message) else most * self.num_draws,
            records.EPSILON: self.largest_epsilon,
            records.NOISY_SCORE: self.largest_noisy_score,
        }
        accept_metrics(reply, required, optional, largest)


def accept_metrics(
    reply: RecordDict,
    required: Collection[str],
    optional: Collection[str] = (),
    largest: Mapping[str, float] | None = None,
) -> None:
    """Check the metrics of a reply to `train` or `evaluate`.

    Args:
        reply: what came back.
        required: metrics that must be there.
        optional: metrics that may be.
        largest: the largest number, or weight of a pair, by metric; any where it says nothing.

    Raises:
        ReplyError: it must not be aggregated.
    """
    if set(reply.metric_records) != {records.METRICS}:
        raise ReplyError(
            f"its metrics are in {sorted(reply.metric_records)}, expected {records.METRICS!r}"
        )
    metrics = reply.metric_records[records.METRICS]
    for key in required:
        if key not in metrics:
            raise ReplyError(f"its metrics lack {key!r}")
    known = {*required, *optional, records.NUM_EXAMPLES}
    if len(metrics) > len(known) + MAX_OTHERS:
        raise ReplyError(f"its metrics are {len(metrics)}, expected at most {MAX_OTHERS} others")
    for key, value in metrics.items():
        if not np.isfinite(value).all():
            raise ReplyError(f"{key} = {_shown(value)} is not finite")
        if key not in known and key in RESERVED:
            raise ReplyError(f"{key} = {_shown(value)}, expected none: this run asks for no {key}")
        if expected := _expected(key, value, (largest or {}).get(key, math.inf)):
            raise ReplyError(f"{key} = {_shown(value)}, expected {expected}")


def _expected(key: str, value: Value, largest: float) -> str | None:
    """Return what a metric was expected to be, if it is not."""
    if key == records.CALIBRATION:
        return None if _is_calibration(value) else f"{3 * NUM_BINS} sums >= 0 of shares up to 1"
    if key == records.LOSS_BEFORE:
        is_pair = isinstance(value, list) and len(value) == 2 and 0 < value[1] <= largest
        if not is_pair or abs(value[0]) > LARGEST_LOSS * value[1]:  # type: ignore[index]
            return f"[sum, weight] of losses, the weight above 0{_at_most(largest)}"
    elif key in _PAIRS:
        is_pair = isinstance(value, list) and len(value) == 2 and 0 <= value[0] <= value[1]
        if not is_pair or (value == [0, 0] and key in _NEVER_EMPTY) or value[1] > largest:  # type: ignore[index]
            return f"[sum, weight] of scores between 0 and 1{_at_most(largest)}"
    elif isinstance(value, list):
        return "one number"
    elif key == records.NUM_EXAMPLES and not 0 < value <= largest:
        return f"a number above 0{_at_most(largest)}"
    elif key == records.EPSILON and not 0 <= value <= largest * (1 + 1e-6):
        return f"a number from 0 to {largest:g}"
    elif key == records.NOISY_SCORE and abs(value) > largest:
        return f"a score with noise, within {largest:.3g} of 0"
    elif key == records.LOSS and abs(value) > LARGEST_LOSS:
        return f"a loss of at most {LARGEST_LOSS:g}"
    elif key == records.WITHIN_NORM and value not in (0, 1):
        return "0 or 1"
    return None


def _is_calibration(value: Value) -> bool:
    """Return whether these are options, predicted and true shares of each bin."""
    if not isinstance(value, list) or len(value) != 3 * NUM_BINS or min(value) < 0:
        return False
    options, shares = np.array(value[:NUM_BINS]), np.array(value[NUM_BINS:]).reshape(2, NUM_BINS)
    return bool(options.max() <= LARGEST_COUNT and (shares <= options * (1 + 1e-6) + 1e-6).all())


def _at_most(largest: float) -> str:
    return "" if largest == math.inf else f" and at most {largest:g}: so many it has questions for"


def _shown(value: Value) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) and len(value) > 3 else str(value)
