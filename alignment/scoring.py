"""What every reward function of this package has: a model, a name, counts, the seconds it took."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from task.comparisons import Against
from task.conversation import Conversation
from task.errors import RewardError
from task.survey import Question

LogMetric = Callable[[str, float], None]


class ScoringModel(Protocol):
    """What rewards are computed with.

    `task.reward.RewardModel` holds the groups' contexts;
    `server_app.federated_reward.FederatedRewardModel` leaves every group's at home.
    """

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that it can score for."""

    def require_groups(self, groups: Sequence[str]) -> None:
        """Raise a `RewardError` unless there are groups, and it can score for each."""

    def score(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        group: str | Sequence[str],
        against: Against | None = None,
    ) -> Tensor:
        """Return (B,) log-odds of responses for one group, or for each its own."""

    def scores(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        groups: Sequence[str] | None = None,
        *,
        against: Against | None = None,
    ) -> Tensor:
        """Return (B, G) log-odds of responses for several groups; NaN: it did not answer."""

    def distributions(
        self, questions: Sequence[Question], *, group: str
    ) -> list[NDArray[np.floating]]:
        """Return one (options,) predicted answer distribution per question for one group."""


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
