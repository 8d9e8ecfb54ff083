"""Temperature scaling: a predictor's confidence, set right by one number.

Logits are divided by a temperature that is fitted on questions that never trained (Guo et al. 2017,
arXiv 1706.04599). What is preferred stays the same; how surely, changes.

Suffixes: Q questions, O options of a question.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from task.config import EvaluationConfig
from task.episodes import PredictsDistributions, make_episode
from task.evaluation import evaluation_splits, true_distributions
from task.features import GroupData

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are tried."""


@torch.inference_mode()
def fit_temperature(
    predictor: PredictsDistributions,
    groups: Sequence[GroupData],
    config: EvaluationConfig,
    seed: int,
) -> float:
    """Return the temperature with the lowest mean cross-entropy, each group counting the same.

    Args:
        predictor: what predicts; the population's answers are not mixed in.
        groups: training groups; their held-back questions are the targets.
        config: the context draws.
        seed: the run's seed.
    """
    predictor.eval()
    parts = []
    for data in groups:
        for split in evaluation_splits(data, config, seed):
            episode = make_episode([(data, split)], device=predictor.feature_mean.device)
            logs_QO = predictor.log_distributions(episode)[0][0].double().cpu().numpy()
            parts.append((logs_QO, true_distributions(data, split.target)))

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean([cross_entropy(logs * scale, true) for logs, true in parts]))

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def cross_entropy(logits_QO: NDArray[np.float64], true_QO: NDArray[np.float32]) -> float:
    """Return the mean cross-entropy of questions; logits are -inf where there is no option."""
    logs_QO = log_softmax(logits_QO, axis=1)
    return float(-(true_QO * np.where(true_QO > 0, logs_QO, 0.0)).sum(1).mean())
