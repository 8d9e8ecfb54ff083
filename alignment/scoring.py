"""What every reward function of this package has: a name, counts, and the seconds it took."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from task.conversation import Conversation
from task.errors import RewardError

LogMetric = Callable[[str, float], None]


class RewardFunction(ABC):
    """A callable for TRL's `reward_funcs`: one number per completion, higher is better.

    Args:
        name: what TRL calls it in its logs.
        floor: score of a completion that cannot be scored, and the lowest of any other.

    Attributes:
        seconds: spent in the function so far, preparations included.
        num_completions: completions so far.
        num_floored: of these, those that could not be scored.
    """

    def __init__(self, name: str, floor: float) -> None:
        if not floor < 0:
            raise RewardError(f"floor = {floor!r}: expected a number below 0.")
        self.__name__ = name
        self.floor = floor
        self.seconds = 0.0
        self.num_completions = 0
        self.num_floored = 0

    def __call__(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[Conversation],
        *,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return a score for every completion.

        Args:
            prompts: plain or conversational, one per completion.
            completions: plain or conversational.
            log_metric: TRL's; where a trainer has none, counts are only kept here.
            **columns: the data set's other columns, one entry per completion, and what else a
                trainer hands over.

        Raises:
            RewardError: a column is missing, or a group is unknown.
            EncoderError: the reward model's encoder cannot be loaded, or gives what is not finite.
        """
        with self._timed():
            scores = self._scores(prompts, completions, columns)
        floored = sum(score is None for score in scores)
        self.num_completions += len(scores)
        self.num_floored += floored
        if log_metric is not None and scores:
            log_metric(f"{self.__name__}/floored", floored / len(scores))
        return [self.floor if score is None else score for score in scores]

    @abstractmethod
    def _scores(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[Conversation],
        columns: Mapping[str, Any],
    ) -> list[float | None]:
        """Return a score for every completion; None: it cannot be scored."""

    def _column(self, columns: Mapping[str, Any], name: str, needed_for: str) -> Sequence[Any]:
        """Return a column of the data set.

        Raises:
            RewardError: there is none.
        """
        if name not in columns:
            lists = sorted(key for key, value in columns.items() if isinstance(value, list))
            raise RewardError(
                f"{self.__name__}: the data set has no column {name!r}, which holds {needed_for} "
                f"(columns besides prompt: {', '.join(lists) or 'none'}). Add it, or name another."
            )
        found: Sequence[Any] = columns[name]
        return found

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started
