"""The figures of an alignment: what aligned models are compared with, and how they score."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.config import AlignConfig
from alignment.evaluation import (
    Answering,
    alignment,
    divergences,
    optimum,
    similarity,
    win_rate,
)
from alignment.policy import Policy
from alignment.questions import QuestionSplit, Shares
from alignment.survey_reward import SurveyReward, log_shares
from alignment.targets import Target
from task.reward import RewardModel
from task.reward_aggregation import AdaptiveAlpha


@dataclass(frozen=True)
class Setting:
    """What all targets share.

    Attributes:
        config: the settings.
        folder: where results go.
        source: folder or hub id of the base model.
        split: the questions.
        model: the reward model.
        judge: the reward model that judges win rates; None: the true answers do.
        truth: groups' true answers to the held-out questions.
        train_truth: and to the training questions.
        base: the base model's answers to the held-out questions.
    """

    config: AlignConfig
    folder: Path
    source: str
    split: QuestionSplit
    model: RewardModel
    judge: RewardModel | None
    truth: dict[str, list[Shares | None]]
    train_truth: dict[str, list[Shares | None]]
    base: Answering


def references(setting: Setting, policy: Policy, groups: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings, and the scores of what aligned models are compared with."""
    config, questions = setting.config, setting.split.held_out
    uniform = [np.full(len(q.options), 1 / len(q.options)) for q in questions]
    predicted = {
        group: [p.astype(np.float64) for p in setting.model.distributions(questions, group=group)]
        for group in groups
    }
    on_train = Answering.of(policy, setting.split.train, config.policy.batch)
    return {
        "settings": config.to_flat(),
        "questions": {
            "train": len(setting.split.train),
            "held_out": len(questions),
            "skipped": setting.split.skipped,
        },
        "policy_parameters": policy.model.num_parameters(),
        "judged_by": config.reward.held_out_path or "the survey's true shares",
        "uniform": alignment(uniform, setting.truth),
        "base": alignment(setting.base.shares, setting.truth)
        | {"outside": float(setting.base.outside.mean())},
        "base_on_train": alignment(on_train.shares, setting.train_truth),
        "predicted": alignment(predicted, setting.truth),
    }


def figures(
    setting: Setting,
    target: Target,
    reward: SurveyReward,
    answers: Answering,
    on_train: Answering,
) -> dict[str, Any]:
    """Return how aligned answers score."""
    config, questions = setting.config, setting.split.held_out
    reward.prepare(questions)  # all at once: one by one each would be a forward pass
    rewards = [reward.of_options(question) for question in questions]
    best = optimum(setting.base, rewards, config.train.beta)
    judging = _judging_shares(setting)

    def as_group(group: str) -> float | None:
        return win_rate(answers, setting.base, judging[group])

    def together() -> float | None:
        judged: list[Shares | None] = []
        for index in range(len(questions)):
            given = {g: s for g in target.groups if (s := judging[g][index]) is not None}
            judged.append(
                log_shares(
                    np.stack(list(given.values()), axis=1),
                    list(given),
                    reward.aggregation,
                    config.reward.floor,
                    learn=False,
                )
                if given
                else None
            )
        return win_rate(answers, setting.base, judged)

    found = {
        "alignment": alignment(answers.shares, setting.truth),
        "alignment_on_train": alignment(on_train.shares, setting.train_truth),
        "optimum": alignment(best.shares, setting.truth),
        "similarity_to_optimum": similarity(answers.shares, best.shares),
        "outside": float(answers.outside.mean()),
        "win_rate": together(),
        "win_rate_of_groups": {group: as_group(group) for group in setting.truth},
        **divergences(answers, setting.base),
    }
    if isinstance(reward.aggregation, AdaptiveAlpha):
        found["weights"] = reward.aggregation.weights
    return found


def _judging_shares(setting: Setting) -> dict[str, list[Shares | None]]:
    """Return the shares by which win rates are judged, of each group; None: not judged."""
    if setting.judge is None:
        return setting.truth
    judge, questions = setting.judge, setting.split.held_out
    return {
        group: [s.astype(np.float64) for s in judge.distributions(questions, group=group)]
        for group in setting.truth
    }
