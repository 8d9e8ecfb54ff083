"""Which groups of a survey train and which are held out."""

from collections.abc import Mapping
from typing import Literal

from task.config import NODES, DataConfig, EvaluationConfig
from task.errors import ConfigError, SurveyError, suggest
from task.seeding import generator
from task.survey import Survey

Role = Literal["train", "held-out"]


def assign_roles(
    survey: Survey, data: DataConfig, evaluation: EvaluationConfig, seed: int
) -> dict[str, Role]:
    """Return the role of every group that takes part, in name order.

    Groups named in the config get their role. With no training group named, every group that is
    not held out and has `data.min-questions` trains; with no group named at all,
    `data.num-held-out-groups` of them are drawn (seeded) to be held out. On a node of its own
    (`data.source` `nodes`) the named groups are all there are.

    Raises:
        ConfigError: a named group does not exist, or the draw leaves no group to train.
        SurveyError: a group that takes part has too few questions to be trained or evaluated.
    """
    train = list(data.train_group_names)
    held_out = list(data.held_out_group_names)
    for key, names in (("data.train-groups", train), ("data.held-out-groups", held_out)):
        for name in names:
            if name not in survey.answers:
                raise ConfigError(
                    f"{key} names {name!r}, which is not among the survey's "
                    f"{len(survey.answers)} groups.{suggest(name, survey.answers)}"
                )
    if not train and data.source != NODES:
        needed = max(data.min_questions, _least_questions("train", data, evaluation))
        train = [
            group
            for group, answers in survey.answers.items()
            if len(answers) >= needed and group not in held_out
        ]
        if not held_out:
            if data.num_held_out_groups >= len(train):
                raise ConfigError(
                    f"data.num-held-out-groups = {data.num_held_out_groups} leaves no group to "
                    f"train: {len(train)} of {len(survey.answers)} groups have the {needed} "
                    "questions that data.min-questions and evaluation.num-context ask for. Lower "
                    "one of the three."
                )
            order = generator(seed, "held-out groups").permutation(len(train))
            held_out = [train[i] for i in order[: data.num_held_out_groups]]
            train = [group for group in train if group not in held_out]
    if not train and data.source != NODES:
        raise ConfigError(
            "No group is left to train. Name some in data.train-groups, or lower "
            "data.min-questions or evaluation.num-context."
        )
    roles: dict[str, Role] = dict.fromkeys(train, "train")
    roles.update(dict.fromkeys(held_out, "held-out"))
    _check_sizes(survey, roles, data, evaluation)
    return dict(sorted(roles.items()))


def num_held_back(num_questions: int, data: DataConfig) -> int:
    """Return how many of a training group's questions never train (at least one)."""
    return max(1, round(num_questions * data.held_back_fraction))


def _least_questions(role: Role, data: DataConfig, evaluation: EvaluationConfig) -> int:
    """A group needs a full evaluation context and a target besides what is held back."""
    least = evaluation.num_context + 1
    if role == "train":
        while least - num_held_back(least, data) < max(2, evaluation.num_context):
            least += 1
    return least


def _check_sizes(
    survey: Survey, roles: Mapping[str, Role], data: DataConfig, evaluation: EvaluationConfig
) -> None:
    for group, role in roles.items():
        least = _least_questions(role, data, evaluation)
        if len(survey.answers[group]) < least:
            raise SurveyError(
                f"Group {group!r} ({role}) has {len(survey.answers[group])} answered questions: "
                f"expected at least {least} with evaluation.num-context = "
                f"{evaluation.num_context}. Lower it, or leave the group out."
            )
