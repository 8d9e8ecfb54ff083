"""No-learning baselines, scored on exactly the questions that the predictor is scored on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from task.config import RunConfig
from task.episodes import Split
from task.evaluation import Predict, evaluation_splits, score_splits
from task.features import GroupData, load_group, load_roles
from task.metrics import GroupScores
from task.roles import Role
from task.sources import load_survey
from task.survey import Answers, Survey

UNIFORM = "uniform"
POPULATION_MEAN = "population_mean"


def seen_question_keys(
    keys_by_group: Mapping[str, NDArray[np.int64]], roles: Mapping[str, Role]
) -> dict[Role, NDArray[np.int64]]:
    """Return the keys of seen questions, for groups of each role.

    For a held-out group a question is seen when some training group was asked it. A training group
    was asked all its own questions, so for it another training group must have been asked too.
    """
    asked = Counter(
        key
        for group, keys in keys_by_group.items()
        if roles[group] == "train"
        for key in set(keys.tolist())
    )
    least: dict[Role, int] = {"held-out": 1, "train": 2}
    return {
        role: np.array(sorted(k for k, n in asked.items() if n >= number), dtype=np.int64)
        for role, number in least.items()
    }


@dataclass(frozen=True)
class PopulationSums:
    """Sums of the training groups' answer distributions, by position of the question."""

    total: Mapping[int, NDArray[np.float64]]
    count: Mapping[int, int]

    def mean(self) -> dict[int, NDArray[np.float64]]:
        """Return the mean distributions."""
        return {p: total / self.count[p] for p, total in self.total.items()}

    def mean_of_others(self, answers: Answers) -> dict[int, NDArray[np.float64]]:
        """Return the other groups' mean distributions of a training group's own questions."""
        means = {}
        for index, position in enumerate(answers.questions.tolist()):
            if others := self.count[position] - 1:
                means[position] = (self.total[position] - answers.distribution(index)) / others
        return means


def population_sums(survey: Survey, roles: Mapping[str, Role]) -> PopulationSums:
    """Sum the answers of the training groups."""
    total: dict[int, NDArray[np.float64]] = {}
    count: Counter[int] = Counter()
    for group, role in roles.items():
        if role == "train":
            answers = survey.answers[group]
            for index, position in enumerate(answers.questions.tolist()):
                shares = answers.distribution(index).astype(np.float64)
                total[position] = total.get(position, np.zeros_like(shares)) + shares
                count[position] += 1
    return PopulationSums(total, count)


def score_baselines(config: RunConfig) -> dict[str, dict[str, GroupScores]]:
    """Score both baselines: baseline name to group to scores.

    `uniform` gives every option the same share. `population_mean` gives the mean of the (other)
    training groups on the same question, and uniform where none was asked. It reads the training
    groups' answers, which is possible in a simulation only.
    """
    survey = load_survey(config)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = {group: load_group(config, group) for group in roles}
    seen = seen_question_keys({g: data.question_keys for g, data in groups.items()}, roles)
    sums = population_sums(survey, roles)
    everyone = sums.mean()
    scores: dict[str, dict[str, GroupScores]] = {UNIFORM: {}, POPULATION_MEAN: {}}
    for group, data in groups.items():
        means = sums.mean_of_others(data.answers) if data.role == "train" else everyone
        splits = evaluation_splits(data, config.evaluation, config.run.seed)
        for name, known in ((UNIFORM, {}), (POPULATION_MEAN, means)):
            scores[name][group] = score_splits(predict_known(known), data, splits, seen[data.role])
    return scores


def predict_known(known: Mapping[int, NDArray[np.float64]]) -> Predict:
    """Return the function that predicts known distributions, uniform where none is known.

    Args:
        known: position of a question in the survey to its distribution.
    """

    def predict(data: GroupData, split: Split) -> NDArray[np.floating]:
        positions = data.answers.questions[split.target].tolist()
        lengths = data.answers.lengths[split.target].tolist()
        predicted_QO = np.zeros((len(positions), max(lengths)))
        for row, (position, length) in enumerate(zip(positions, lengths, strict=True)):
            predicted_QO[row, :length] = known.get(position, np.full(length, 1 / length))
        return predicted_QO

    return predict
