"""The questions that train a policy, those that are held out, and what the groups answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignment.config import QuestionSettings
from alignment.prompts import LETTERS, prompt_of
from task.errors import SurveyError
from task.seeding import generator
from task.survey import Answers, Question, Survey

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class QuestionSplit:
    """Questions of a survey, divided by the seed.

    Attributes:
        train: they become prompts.
        held_out: they are evaluated, and are never part of a prompt or a context.
        skipped: how many have more options than there are letters, or are too long.
    """

    train: tuple[Question, ...]
    held_out: tuple[Question, ...]
    skipped: int

    @classmethod
    def of(cls, survey: Survey, settings: QuestionSettings, seed: int) -> "QuestionSplit":
        """Divide the questions of a survey that some group answered.

        Raises:
            SurveyError: there are fewer than two.
        """
        answered = sorted(
            {int(position) for answers in survey.answers.values() for position in answers.questions}
        )
        questions = [survey.questions[position] for position in answered]
        longest = settings.most_characters or math.inf
        usable = [
            question
            for question in dict.fromkeys(questions)
            if len(question.options) <= len(LETTERS) and len(prompt_of(question)) <= longest
        ]
        if len(usable) < 2:
            raise SurveyError(
                f"The survey has {len(usable)} questions with at most {len(LETTERS)} options and "
                f"questions.most-characters = {settings.most_characters}: expected at least two, "
                "to train on one and hold the other out."
            )
        usable.sort(key=lambda question: question.key)  # in whatever order a file has them
        order = generator(seed, "alignment questions").permutation(len(usable))
        size = round(len(usable) * settings.held_out_fraction)
        size = min(max(1, size), len(usable) - 1)
        held_out, train = (
            [usable[index] for index in part] for part in (order[:size], order[size:])
        )
        return cls(
            tuple(train[: settings.most_train or None]),
            tuple(held_out[: settings.most_held_out or None]),
            len(questions) - len(usable),
        )


def true_shares(survey: Survey, group: str, questions: Sequence[Question]) -> list[Shares | None]:
    """Return a group's answer distribution to each question; None: it was not asked."""
    answers = survey.answers[group]
    own = {survey.questions[position]: i for i, position in enumerate(answers.questions.tolist())}
    return [
        answers.distribution(own[question]).astype(np.float64) if question in own else None
        for question in questions
    ]


def context_survey(
    survey: Survey, group: str, questions: Sequence[Question], size: int, seed: int
) -> Survey:
    """Return a survey of a group's answers to so many of the questions, drawn by the seed.

    Raises:
        SurveyError: it answers none of them.
    """
    answers, allowed = survey.answers[group], set(questions)
    places = [
        place
        for place, position in enumerate(answers.questions.tolist())
        if survey.questions[position] in allowed
    ]
    if not places:
        raise SurveyError(
            f"Group {group!r} answers none of the {len(questions)} training questions: its "
            "preferences cannot be inferred. Leave it out of reward.groups."
        )
    drawn = generator(seed, "alignment context", group).permutation(places)[:size]
    kept = sorted(drawn.tolist())
    own = Answers(
        answers.questions[kept],
        answers.lengths[kept],
        np.concatenate([answers.distribution(place) for place in kept]),
    )
    return Survey(survey.questions, {group: own})


def require_groups(survey: Survey, groups: Sequence[str], key: str) -> None:
    """Raise a `SurveyError` unless the survey holds all groups."""
    missing = [group for group in groups if group not in survey.answers]
    if missing:
        raise SurveyError(
            f"{key}: {missing[0]!r} is not among the survey's groups, so that there are no true "
            f"answers of it: {', '.join(list(survey.answers)[:20])}. Name the survey that the "
            "reward model was trained on in data.*."
        )


def answering(
    survey: Survey, groups: Sequence[str], questions: Sequence[Question]
) -> Mapping[str, list[Shares | None]]:
    """Return `true_shares` of the groups that answer at least one of the questions."""
    found = {group: true_shares(survey, group, questions) for group in groups}
    return {group: shares for group, shares in found.items() if any(s is not None for s in shares)}
