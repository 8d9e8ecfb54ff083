"""Predicting many questions for many groups, each from its context.

Suffixes: G groups, T options of all questions, Q questions, O options of a question.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from task.contexts import Context
from task.episodes import make_episode
from task.feature_cache import FeatureCache
from task.predictor import PreferencePredictor
from task.survey import Question

MOST_OPTIONS = 4096
"""Options that are predicted in one forward pass, over all groups of it."""


@dataclass(frozen=True)
class Prediction:
    """What is predicted of one question.

    Attributes:
        logits: (O,) before the softmax over the options.
        shares: (O,) the distribution over the options, the population's answers mixed in.
    """

    logits: NDArray[np.floating]
    shares: NDArray[np.floating]

    def log_odds(self, option: int) -> float:
        """Return the log-odds of one option against all the others; a share of 0 counts as 1e-38.

        Where it is the only option there is nothing to compare it with: its logit.
        """
        if len(self.logits) == 1:
            return float(self.logits[0])
        tiny = float(np.finfo(np.float32).tiny)
        others = float(np.delete(self.shares, option).sum(dtype=np.float64))
        return math.log(max(float(self.shares[option]), tiny)) - math.log(max(others, tiny))


def predict_contexts(
    predictor: PreferencePredictor,
    cache: FeatureCache,
    contexts: Sequence[Context],
    questions: Sequence[Question],
    temperature: float = 1.0,
) -> list[list[Prediction]]:
    """Return, for each context, the prediction of every question.

    Args:
        predictor: the predictor; its population's answers are mixed in.
        cache: of the questions' features.
        contexts: of groups.
        questions: what is predicted.
        temperature: what logits are divided by (`task.temperature`).
    """
    predicted: list[list[Prediction]] = [[] for _ in contexts]
    for some in _portions(questions, MOST_OPTIONS // len(contexts)):
        new = _forward(predictor, contexts, some, cache.features(some), temperature)
        for so_far, predictions in zip(predicted, new, strict=True):
            so_far.extend(predictions)
    return predicted


@torch.inference_mode()
def _forward(
    predictor: PreferencePredictor,
    contexts: Sequence[Context],
    questions: Sequence[Question],
    target_features: NDArray[np.float32],
    temperature: float,
) -> Iterator[list[Prediction]]:
    """Predict some questions for all contexts, in one forward pass."""
    starts = np.cumsum([0, *(len(context.shares_C) for context in contexts)]).tolist()
    features = np.concatenate([*(context.features_Cd for context in contexts), target_features])
    parts = [
        context.with_targets(questions, features, start, starts[-1])
        for context, start in zip(contexts, starts[:-1], strict=True)
    ]
    episode = make_episode(parts, device=predictor.feature_mean.device)
    means_GT, _ = predictor(
        episode.context_x_BCd,
        episode.context_y_BC,
        episode.target_x_BTd,
        episode.context_mask_BC,
    )
    means_GT = means_GT / temperature
    logits_GQO = episode.by_question(means_GT).float().cpu().numpy()
    shares_GQO = episode.log_softmax(means_GT).exp().float().cpu().numpy()
    prior = predictor.prior
    for (data, split), logits_QO, shares_QO in zip(parts, logits_GQO, shares_GQO, strict=True):
        mixed_QO = prior.mix(shares_QO, data, split.target) if prior else shares_QO
        yield [
            Prediction(logits_O[: len(question.options)], shares_O[: len(question.options)])
            for question, logits_O, shares_O in zip(questions, logits_QO, mixed_QO, strict=True)
        ]


def _portions(questions: Sequence[Question], most: int) -> Iterator[Sequence[Question]]:
    """Cut questions into portions of so many options, or of one question that has more."""
    start, options = 0, 0
    for index, question in enumerate(questions):
        if index > start and options + len(question.options) > most:
            yield questions[start:index]
            start, options = index, 0
        options += len(question.options)
    if start < len(questions):
        yield questions[start:]
