"""Survey: questions with options, and how each group's people distribute over the options."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from task.errors import SurveyError

SUM_TOLERANCE = 0.02
"""Shares of one question may miss 1 by this much (surveys round); they are then normalised."""


@dataclass(frozen=True)
class Question:
    """A question and its answer options, in order."""

    text: str
    options: tuple[str, ...]

    @property
    def key(self) -> int:
        """64-bit key of text and options, in any order: the same on every client."""
        content = "\x1f".join((self.text, *sorted(self.options)))
        digest = hashlib.sha256(content.encode()).digest()[:8]
        return int.from_bytes(digest, "big", signed=True)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Place of each option among the sorted options, an order that all clients share."""
        order = sorted(range(len(self.options)), key=lambda option: self.options[option])
        ranks = dict(zip(order, range(len(order)), strict=True))
        return tuple(ranks[option] for option in range(len(order)))


@dataclass(frozen=True)
class Answers:
    """One group's answer distributions.

    Attributes:
        questions: (Q,) int64, positions in `Survey.questions`, in the order of `Question.key`: two
            files with the same answers give the same order.
        lengths: (Q,) int64, number of options of each question.
        shares: (sum of lengths,) float32, the distributions one after another; each sums to 1.
        counts: (sum of lengths,) int64, respondents who chose each option; None where the source
            gives shares, or weighted counts, which are no whole numbers.
    """

    questions: NDArray[np.int64]
    lengths: NDArray[np.int64]
    shares: NDArray[np.float32]
    counts: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(Q,) int64: where each question's shares start."""
        return np.concatenate(([0], np.cumsum(self.lengths)[:-1])).astype(np.int64)

    def distribution(self, index: int) -> NDArray[np.float32]:
        """(options,) shares of the group's `index`-th question."""
        start = self.starts[index]
        return self.shares[start : start + self.lengths[index]]

    @property
    def respondents(self) -> NDArray[np.int64] | None:
        """(Q,) int64: respondents of each question; None without counts."""
        return None if self.counts is None else np.add.reduceat(self.counts, self.starts)


@dataclass(frozen=True)
class Survey:
    """Questions, the answers of every group, and what loading dropped.

    Attributes:
        questions: all questions.
        answers: group name to its answers, in name order.
        dropped: reason to number of (question, group) answers or rows left out.
    """

    questions: tuple[Question, ...]
    answers: Mapping[str, Answers]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def without_answers(self) -> "Survey":
        """Return which questions each group was asked; every share is NaN."""
        blank = {
            group: replace(answers, shares=np.full_like(answers.shares, np.nan), counts=None)
            for group, answers in self.answers.items()
        }
        return replace(self, answers=blank)

    @cached_property
    def option_offsets(self) -> NDArray[np.int64]:
        """(questions + 1,) int64: rows of each question among all (question, option) pairs."""
        counts = [len(question.options) for question in self.questions]
        return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)

    @cached_property
    def option_ranks(self) -> NDArray[np.int64]:
        """(options of all questions,) int64: `Question.ranks`, question after question."""
        return np.array([rank for question in self.questions for rank in question.ranks])

    @cached_property
    def question_keys(self) -> NDArray[np.int64]:
        """(questions,) int64: `Question.key` of every question."""
        return np.array([question.key for question in self.questions], dtype=np.int64)

    def summary(self, clients: str = "groups") -> str:
        """Return one line: size, and what was dropped; `clients` says what `answers` are of."""
        answered = sum(len(answers) for answers in self.answers.values())
        text = (
            f"{len(self.answers):,} {clients}, {len(self.questions):,} questions, "
            f"{answered:,} answer distributions"
        )
        if self.dropped:
            text += "; dropped: " + ", ".join(
                f"{count:,} {reason}" for reason, count in sorted(self.dropped.items())
            )
        return text


def build_survey(
    questions: Sequence[Question],
    answers: Iterable[tuple[str, int, Sequence[float] | NDArray[np.float64]]],
    dropped: Mapping[str, int] | None = None,
    *,
    counts: bool = False,
) -> Survey:
    """Validate answer distributions and assemble a survey.

    Distributions that are all zero and questions with fewer than two options are dropped and
    counted. All others are normalised to sum to exactly 1.

    Args:
        questions: the questions.
        answers: (group, position in `questions`, values over its options), in any order.
        dropped: what the caller has left out already, by reason.
        counts: the values count respondents; otherwise they are shares.

    Raises:
        SurveyError: a value is negative or not finite, shares do not sum to 1 within
            `SUM_TOLERANCE`, their number differs from the options, a group answers a question
            twice, or nothing is left.
    """
    reasons = dict(dropped or {})
    by_group: dict[str, dict[int, NDArray[np.float64]]] = {}
    counted: dict[str, dict[int, NDArray[np.float64]]] = {}
    for group, position, given in answers:
        question = questions[position]
        values = np.asarray(given, dtype=np.float64)
        total = values.sum()
        shares = values / total if counts and total > 0 else values
        _check_shares(group, question, shares)
        if len(shares) < 2:
            _count(reasons, "answers to questions with fewer than two options")
        elif not shares.any():
            _count(reasons, "all-zero distributions")
        else:
            own = by_group.setdefault(group, {})
            if position in own:
                raise SurveyError(
                    f"Group {group!r} answers the question {question.text!r} twice: expected one "
                    "distribution per (group, question). Remove or merge one of them."
                )
            own[position] = shares / shares.sum()
            if counts:
                counted.setdefault(group, {})[position] = values
    if not by_group:
        raise SurveyError(
            f"The survey holds no usable answers (dropped: {reasons or 'nothing'}). Expected at "
            "least one group with one answered question."
        )
    keys = [question.key for question in questions]
    return Survey(
        questions=tuple(questions),
        answers={
            group: _pack(by_group[group], keys, counted.get(group)) for group in sorted(by_group)
        },
        dropped=reasons,
    )


def merged(surveys: Sequence[Survey]) -> Survey:
    """Put surveys of different groups together; a question of several is kept once.

    Raises:
        SurveyError: two surveys hold the same group.
    """
    positions: dict[Question, int] = {}
    answers: dict[str, Answers] = {}
    for survey in surveys:
        place = [positions.setdefault(each, len(positions)) for each in survey.questions]
        for group, its in survey.answers.items():
            if group in answers:
                raise SurveyError(f"Group {group!r} comes from two places: expected one.")
            moved = np.array([place[position] for position in its.questions], dtype=np.int64)
            answers[group] = replace(its, questions=moved)
    return Survey(tuple(positions), dict(sorted(answers.items())))


def _check_shares(group: str, question: Question, shares: NDArray[np.float64]) -> None:
    where = f"Group {group!r}, question {question.text!r}"
    if shares.ndim != 1 or len(shares) != len(question.options):
        raise SurveyError(
            f"{where}: {shares.size} shares for {len(question.options)} options "
            f"{list(question.options)}. Expected one share per option."
        )
    if not np.isfinite(shares).all() or (shares < 0).any():
        raise SurveyError(
            f"{where}: shares {shares.tolist()} contain a negative or missing value. Expected "
            "numbers >= 0."
        )
    total = shares.sum()
    if total > 0 and abs(total - 1) > SUM_TOLERANCE:
        raise SurveyError(
            f"{where}: shares sum to {total:.4g}. Expected 1 within {SUM_TOLERANCE:.0%}; give raw "
            "counts as counts (column `count`), not as shares."
        )


def _pack(
    by_position: Mapping[int, NDArray[np.float64]],
    keys: Sequence[int],
    counted: Mapping[int, NDArray[np.float64]] | None,
) -> Answers:
    positions = sorted(by_position, key=lambda position: keys[position])
    counts = np.concatenate([counted[p] for p in positions]) if counted else None
    if counts is not None and (counts != np.rint(counts)).any():
        counts = None
    return Answers(
        questions=np.array(positions, dtype=np.int64),
        lengths=np.array([len(by_position[p]) for p in positions], dtype=np.int64),
        shares=np.concatenate([by_position[p] for p in positions]).astype(np.float32),
        counts=None if counts is None else counts.astype(np.int64),
    )


def _count(reasons: dict[str, int], reason: str, number: int = 1) -> None:
    reasons[reason] = reasons.get(reason, 0) + number
