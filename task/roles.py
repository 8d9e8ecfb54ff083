"""Which groups of a survey train and which are held out."""

from collections.abc import Mapping
from typing import Literal

from task.clients import members
from task.config import NODES, DataConfig, EvaluationConfig
from task.errors import ConfigError, SurveyError, suggest
from task.seeding import generator
from task.survey import Survey

Role = Literal["train", "held-out"]


def assign_roles(
    survey: Survey, data: DataConfig, evaluation: EvaluationConfig, seed: int
) -> dict[str, Role]:
    """Return the role of every client that takes part, in name order: of every group, or user.

    Groups named in the config get their role. With no training group named, every group that is
    not held out and has `data.min-questions` trains; with no group named at all,
    `data.num-held-out-groups` of them are drawn (seeded) to be held out. On a node of its own
    (`data.source` `nodes`) the named groups are all there are.

    Where clients are users, a group's role is that of all its users, held out as a whole; a single
    user may be named with another one. Users with too few questions to be trained or evaluated, or
    with less than `data.min-questions`, take no part, unless they are named themselves.

    Raises:
        ConfigError: a named group does not exist, or the draw leaves no group to train.
        SurveyError: a group that takes part has too few questions to be trained or evaluated, or no
            user with enough.
    """
    if data.by_user:
        return _assign_users(survey, data, evaluation, seed)
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
            held_out = _draw(train, len(survey.answers), f"the {needed} questions", data, seed)
            train = [group for group in train if group not in held_out]
    if not train and data.source != NODES:
        raise _none_to_train()
    roles: dict[str, Role] = dict.fromkeys(train, "train")
    roles.update(dict.fromkeys(held_out, "held-out"))
    _check_sizes(survey, roles, data, evaluation)
    return dict(sorted(roles.items()))


def _assign_users(
    survey: Survey, data: DataConfig, evaluation: EvaluationConfig, seed: int
) -> dict[str, Role]:
    groups = members(survey.answers, data)
    named: dict[Role, tuple[str, ...]] = {
        "train": data.train_group_names,
        "held-out": data.held_out_group_names,
    }
    chosen: dict[str, Role] = {}  # group to role
    alone: dict[str, Role] = {}  # user named by itself to role
    for role, names in named.items():
        for name in names:
            if name in groups:
                chosen[name] = role
            elif name in survey.answers:
                alone[name] = role
            else:
                known = [*groups, *survey.answers]
                raise ConfigError(
                    f"data.{role}-groups names {name!r}, which is neither one of the survey's "
                    f"{len(groups)} groups nor a user, GROUP/USER.{suggest(name, known)}"
                )
    least: dict[Role, int] = {
        role: max(data.min_questions, _least_questions(role, data, evaluation)) for role in named
    }
    if not named["train"]:
        others = [
            group
            for group, users in groups.items()
            if group not in chosen
            and any(len(survey.answers[user]) >= least["train"] for user in users)
        ]
        held_out: list[str] = []
        if not named["held-out"]:
            needed = f"a user with the {least['train']} questions"
            held_out = _draw(others, len(groups), needed, data, seed)
        for group in others:
            chosen[group] = "held-out" if group in held_out else "train"
    roles: dict[str, Role] = {}
    for group, role in chosen.items():
        enough = [user for user in groups[group] if len(survey.answers[user]) >= least[role]]
        if not enough and not alone.keys() & set(groups[group]):
            raise SurveyError(
                f"Group {group!r} ({role}): none of its {len(groups[group])} users has the "
                f"{least[role]} questions that data.min-questions and evaluation.num-context ask "
                "for. Lower them, or leave the group out."
            )
        roles |= dict.fromkeys(enough, role)
    roles |= alone
    if "train" not in roles.values():
        raise _none_to_train()
    _check_sizes(survey, alone, data, evaluation)
    return dict(sorted(roles.items()))


def _draw(
    eligible: list[str], num_groups: int, needed: str, data: DataConfig, seed: int
) -> list[str]:
    """Return the groups that are held out by a seeded draw.

    Args:
        eligible: groups that could train.
        num_groups: of the survey.
        needed: what makes a group eligible, for the error.
        data: how many to draw.
        seed: the run's seed.
    """
    if data.num_held_out_groups >= len(eligible):
        raise ConfigError(
            f"data.num-held-out-groups = {data.num_held_out_groups} leaves no group to "
            f"train: {len(eligible)} of {num_groups} groups have {needed} that data.min-questions "
            "and evaluation.num-context ask for. Lower one of the three."
        )
    order = generator(seed, "held-out groups").permutation(len(eligible))
    return [eligible[i] for i in order[: data.num_held_out_groups]]


def _none_to_train() -> ConfigError:
    return ConfigError(
        "No group is left to train. Name some in data.train-groups, or lower data.min-questions or "
        "evaluation.num-context."
    )


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
