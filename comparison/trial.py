"""A cell's survey, and how everything that is compared is scored on it."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from comparison.cells import Point
from comparison.plan import Cell
from task.baselines import seen_question_keys
from task.centralized import Progress, train_centralized
from task.config import TrainConfig
from task.evaluation import Predict, evaluation_splits, few_shot_splits, score_splits
from task.features import FeatureSums, GroupData, feature_sums, load_group, load_roles
from task.metrics import GroupScores
from task.population import PopulationAnswers, PopulationPrior
from task.roles import Role


class Trial:
    """The groups of a cell, and its evaluation.

    Attributes:
        config: the cell's settings.
        roles: group to role.
        groups: group to data.
        train: data of the training groups, in name order.
        prior: the training groups' answers to be mixed into predictions, if the settings ask.
        device: where predictors are trained outside of the federated engines.
    """

    def __init__(self, cell: Cell) -> None:
        self.config = cell.config
        self.roles: Mapping[str, Role] = load_roles(
            self.config.data, self.config.evaluation, self.config.run.seed
        )
        self.groups = {group: load_group(self.config, group) for group in self.roles}
        self.train = [data for data in self.groups.values() if data.role == "train"]
        self.prior: PopulationPrior | None = None
        if weight := self.config.predictor.population_weight:
            answers = PopulationAnswers.merged(map(PopulationAnswers.of, self.train))
            self.prior = PopulationPrior(answers, weight)
        on_gpu = torch.cuda.is_available() and self.config.engine.device != "cpu"
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self._few_shot = cell.few_shot
        keys = {group: data.question_keys for group, data in self.groups.items()}
        self._seen = seen_question_keys(keys, self.roles)

    def seen_keys(self, data: GroupData) -> NDArray[np.int64]:
        """Return `Question.key` of the questions that count as seen for a group."""
        return self._seen[data.role]

    def score(self, predict: Predict, groups: Iterable[GroupData]) -> dict[str, GroupScores]:
        """Score some groups as a run does."""
        return {
            data.group: score_splits(
                predict,
                data,
                evaluation_splits(data, self.config.evaluation, self.config.run.seed),
                self.seen_keys(data),
            )
            for data in groups
        }

    def few_shot(self, predict: Predict) -> dict[int, dict[str, float]]:
        """Score with several context sizes: the held-out groups, or all if none is held out.

        Groups with too few questions for the largest size are left out of all.
        """
        scores: dict[int, dict[str, float]] = {size: {} for size in self._few_shot}
        held_out = [data for data in self.groups.values() if data.role == "held-out"]
        for data in held_out or self.train:
            if not self._few_shot:
                break
            splits = few_shot_splits(
                data, self._few_shot, self.config.evaluation, self.config.run.seed
            )
            for size, of_size in splits.items():
                seen = self.seen_keys(data)
                scores[size][data.group] = score_splits(predict, data, of_size, seen).all.value
        return scores


class Curve:
    """Collects a method's points while it trains in this process.

    Args:
        config: says when to evaluate, as for a run.
        evaluate: gives scores of the module as it stands.
        every: evaluate every this many rounds, and before the first, and at last.
        megabytes: what is sent before training.
    """

    def __init__(
        self,
        config: TrainConfig,
        evaluate: Callable[[], Mapping[str, GroupScores]],
        *,
        every: int,
        megabytes: float = 0.0,
    ) -> None:
        self.points: list[Point] = []
        self.scores: Mapping[str, GroupScores] = {}
        self._num_rounds = config.num_rounds
        self._evaluate = evaluate
        self._every = every
        self._megabytes = megabytes
        self._seconds = 0.0
        self._note(Progress(0, 0, 0))
        self._resumed = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Take note of a round, and evaluate if it is time to."""
        self._seconds += time.perf_counter() - self._resumed
        if progress.round % self._every == 0 or progress.round == self._num_rounds:
            self._note(progress)
        self._resumed = time.perf_counter()

    def _note(self, progress: Progress) -> None:
        self.scores = self._evaluate()
        self.points.append(
            Point(
                round=progress.round,
                optimizer_steps=progress.optimizer_steps,
                episodes=progress.episodes,
                seconds=self._seconds,
                megabytes=self._megabytes,
                groups={group: scores.all.value for group, scores in self.scores.items()},
            )
        )


def train_with_curve(
    module: nn.Module,
    clients: list[GroupData],
    train: TrainConfig,
    trial: Trial,
    evaluate: Callable[[], Mapping[str, GroupScores]],
    megabytes: float = 0.0,
) -> Curve:
    """Train a module on pooled groups, scoring it on the way."""
    curve = Curve(train, evaluate, every=trial.config.evaluation.every, megabytes=megabytes)
    train_centralized(module, clients, train, seed=trial.config.run.seed, after_round=curve)
    return curve


def pooled_sums(clients: Iterable[GroupData]) -> FeatureSums:
    """Return the feature sums over groups, added up in their order as a server does."""
    return reduce(add, (feature_sums(data) for data in clients))
