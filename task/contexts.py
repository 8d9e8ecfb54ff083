"""A group's context: the answered questions from which the predictor infers what it prefers.

Suffixes: Q questions of the context, C options of all of them, d feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from task.episodes import Split
from task.feature_cache import FeatureCache
from task.features import GroupData, option_rows
from task.survey import Answers, Question, Survey


@dataclass(frozen=True)
class Context:
    """One group's answered questions, as the predictor sees them.

    Attributes:
        group: the group's name.
        features_Cd: features of the options, question after question.
        lengths_Q: number of options of each question.
        shares_C: answer shares of the options.
    """

    group: str
    features_Cd: NDArray[np.float32]
    lengths_Q: NDArray[np.int64]
    shares_C: NDArray[np.float32]

    @classmethod
    def of_survey(cls, survey: Survey, group: str, cache: FeatureCache) -> "Context":
        """Return all that a group has answered in a survey."""
        answers = survey.answers[group]
        questions = [survey.questions[position] for position in answers.questions]
        return cls(group, cache.features(questions), answers.lengths, answers.shares)

    @classmethod
    def of_data(cls, data: GroupData, positions: NDArray[np.int64]) -> "Context":
        """Return some of a group's answered questions."""
        rows = option_rows(data.answers.starts, data.answers.lengths, positions)
        return cls(
            data.group,
            data.features[data.rows[rows]],
            data.answers.lengths[positions],
            data.answers.shares[rows],
        )

    def with_targets(
        self, questions: Sequence[Question], features: NDArray[np.float32], first: int, target: int
    ) -> tuple[GroupData, Split]:
        """Return this context with questions to predict, as an episode's part.

        Args:
            questions: the questions to predict.
            features: (rows, d) of a whole batch, this context's and these questions' among them.
            first: row at which this context's options start.
            target: row at which these questions' options start.
        """
        lengths = np.array([len(question.options) for question in questions], dtype=np.int64)
        rows = np.concatenate(
            (first + np.arange(len(self.shares_C)), target + np.arange(lengths.sum()))
        )
        everything = np.arange(len(self.lengths_Q) + len(questions))
        unknown = np.zeros(lengths.sum(), dtype=np.float32)
        ranks = [rank for question in questions for rank in question.ranks]
        # Keys and ranks are asked for of the targets alone.
        data = GroupData(
            group=self.group,
            role="held-out",
            features=features,
            rows=rows,
            answers=Answers(
                everything,
                np.concatenate((self.lengths_Q, lengths)),
                np.concatenate((self.shares_C, unknown)),
            ),
            question_keys=np.concatenate(
                (
                    np.zeros(len(self.lengths_Q), dtype=np.int64),
                    np.array([question.key for question in questions], dtype=np.int64),
                )
            ),
            option_ranks=np.concatenate(
                (np.zeros(len(self.shares_C), dtype=np.int64), np.array(ranks, dtype=np.int64))
            ),
            trainable=everything,
            held_back=everything[:0],
        )
        return data, Split(everything[: len(self.lengths_Q)], everything[len(self.lengths_Q) :])
