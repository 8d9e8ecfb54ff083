"""A group's data as the predictor sees it, and federated feature statistics."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from task.config import DataConfig, EncoderConfig, EvaluationConfig, RunConfig
from task.encoder import encode_cached, make_encoder
from task.privacy_config import PrivacyConfig
from task.roles import Role, assign_roles, num_held_back
from task.seeding import generator
from task.sources import key_folder, load_asked, survey_of
from task.survey import Answers, Survey


@dataclass(frozen=True)
class GroupData:
    """One group's answered questions with their features.

    Attributes:
        group: the group's name.
        role: `train` or `held-out`.
        features: (all options of the survey, d_x) float32, shared, read-only.
        rows: (N,) int64, rows of `features` of this group's options, question after question.
        answers: the group's answer distributions.
        question_keys: (Q,) int64, `Question.key` of each answered question.
        option_ranks: (N,) int64, `Question.ranks` of their options.
        trainable: positions of the questions that may train or be context (held-out groups: all).
        held_back: positions of the questions that never train (held-out groups: none).
    """

    group: str
    role: Role
    features: NDArray[np.float32]
    rows: NDArray[np.int64]
    answers: Answers
    question_keys: NDArray[np.int64]
    option_ranks: NDArray[np.int64]
    trainable: NDArray[np.int64]
    held_back: NDArray[np.int64]


@dataclass(frozen=True)
class FeatureSums:
    """Sums over feature rows: what a client discloses so that features can be standardised."""

    count: float
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> "FeatureSums":
        """Sum (N, d_x) feature rows."""
        exact = rows.astype(np.float64)
        return cls(float(len(rows)), exact.sum(axis=0), np.square(exact).sum(axis=0))

    @classmethod
    def zero(cls, dimension: int) -> "FeatureSums":
        """Return the sums over no rows."""
        return cls(0.0, np.zeros(dimension), np.zeros(dimension))

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        return FeatureSums(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    def mean_and_std(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (d_x,) mean and standard deviation; a constant feature gets deviation 1."""
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - np.square(mean), 0)
        constant = variance <= 1e-12 * np.maximum(np.square(mean), 1e-12)
        std = np.sqrt(np.where(constant, 1.0, variance))
        return mean.astype(np.float32), std.astype(np.float32)


def option_rows(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows of all options of the questions at `positions`, question after question.

    `starts` and `lengths` say where each question's options lie.
    """
    chosen = lengths[positions]
    ends = np.cumsum(chosen)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - chosen, chosen)
    rows: NDArray[np.int64] = np.repeat(starts[positions], chosen) + within
    return rows


def group_data(
    survey: Survey,
    features: NDArray[np.float32],
    group: str,
    role: Role,
    data: DataConfig,
    seed: int,
) -> GroupData:
    """Assemble one group's data; a training group's held-back questions are a seeded draw."""
    answers = survey.answers[group]
    lengths = np.diff(survey.option_offsets)
    everything = np.arange(len(answers))
    held_back = everything[:0]
    if role == "train":
        order = generator(seed, "held-back questions", group).permutation(len(answers))
        held_back = np.sort(order[: num_held_back(len(answers), data)])
    rows = option_rows(survey.option_offsets[:-1], lengths, answers.questions)
    return GroupData(
        group=group,
        role=role,
        features=features,
        rows=rows,
        answers=answers,
        question_keys=survey.question_keys[answers.questions],
        option_ranks=survey.option_ranks[rows],
        trainable=np.setdiff1d(everything, held_back),
        held_back=held_back,
    )


def feature_sums(data: GroupData) -> FeatureSums:
    """Sum the features of all of a group's questions (texts only, no answers)."""
    return FeatureSums.of(data.features[data.rows])


@lru_cache(maxsize=2)
def load_features(data: DataConfig, encoder: EncoderConfig, seed: int) -> NDArray[np.float32]:
    """Load the features of all the survey's questions, (options, d_x), from the cache."""
    return encode_cached(load_asked(data, seed).questions, encoder)


@lru_cache(maxsize=2)
def load_fingerprint(encoder: EncoderConfig) -> str:
    """Load the encoder's fingerprint."""
    return make_encoder(encoder).fingerprint


@lru_cache(maxsize=2)
def load_roles(data: DataConfig, evaluation: EvaluationConfig, seed: int) -> dict[str, Role]:
    """Load the role of every group that takes part."""
    return assign_roles(load_asked(data, seed), data, evaluation, seed)


@cache
def _load_group(
    data: DataConfig,
    encoder: EncoderConfig,
    evaluation: EvaluationConfig,
    privacy: PrivacyConfig,
    seed: int,
    group: str,
) -> GroupData:
    role = load_roles(data, evaluation, seed)[group]
    features = load_features(data, encoder, seed)
    survey = survey_of(data, privacy, key_folder(privacy, encoder), seed)
    return group_data(survey, features, group, role, data, seed)


def load_group(config: RunConfig, group: str) -> GroupData:
    """Load one group's data as `privacy.*` lets it be read; kept for the life of the process.

    Raises:
        KeyError: the group takes no part in the run.
    """
    return _load_group(
        config.data, config.encoder, config.evaluation, config.privacy, config.run.seed, group
    )
