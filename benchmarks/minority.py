"""A majority of groups that agree and a minority of one: where rules for several groups differ.

With many groups of all opinions no answer serves the worst off much better than another one; that a
majority outvotes a minority is what maximin is for (arXiv 2402.08925).
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch

from alignment.config import AlignConfig
from alignment.questions import QuestionSplit
from alignment.reward_model import load_rewards
from task.config import RunConfig, RunSettings
from task.metrics import alignment_score
from task.sources import load_survey

MINORITY = "minority"


def majority_and_minority(config: AlignConfig, size: int) -> dict[str, str]:
    """Return the groups that count, and what each is: `majority 1`, ..., or `minority`.

    Chosen by what the reward model predicts for the training questions, no true answers: the
    minority is farther from each of the majority than these are from each other, by the largest
    difference of mean distances (1 - alignment score).

    Args:
        config: names the survey and the reward model.
        size: of the majority.
    """
    data = RunConfig(data=config.data, run=RunSettings(seed=config.questions.survey_seed))
    survey = load_survey(data)
    split = QuestionSplit.of(survey, config.questions, config.align.seed)
    model, _, groups = load_rewards(config, survey, split)
    answers = [model.distributions(split.train, group=group) for group in groups]
    number = len(groups)
    distance = np.zeros((number, number))
    for i, j in combinations(range(number), 2):
        scores = [
            float(alignment_score(torch.from_numpy(p_O), torch.from_numpy(q_O)))
            for p_O, q_O in zip(answers[i], answers[j], strict=True)
        ]
        distance[i, j] = distance[j, i] = 1 - np.mean(scores)
    pairs = size * (size - 1)
    _, majority, minority = max(
        (
            distance[other, chosen].mean() - distance[np.ix_(chosen, chosen)].sum() / pairs,
            chosen,
            other,
        )
        for chosen in map(list, combinations(range(number), size))
        for other in range(number)
        if other not in chosen
    )
    roles = {groups[index]: f"majority {i + 1}" for i, index in enumerate(majority)}
    return roles | {groups[minority]: MINORITY}


def by_role(metrics: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, Any]:
    """Return `metrics.json` with groups named by what they are, so that seeds can be compared."""
    names = dict(roles) | {f"group:{group}": f"group:{role}" for group, role in roles.items()}

    def renamed(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return {names.get(key, key): renamed(value) for key, value in part.items()}

    found: dict[str, Any] = renamed(dict(metrics))
    return found
