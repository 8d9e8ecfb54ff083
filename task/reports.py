"""What clients report of the parameters they are sent, for strategies that weigh groups by it.

Every report is a (sum, weight) pair over questions, so that those of a group's clients merge. That
is no defence against a server that chooses the parameters it sends: sums under many parameters tell
more than one does.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr

from task import records
from task.config import RunConfig
from task.episodes import PredictsDistributions, Split, make_episode
from task.evaluation import evaluate_group, evaluation_splits, true_distributions
from task.features import GroupData
from task.metrics import Mean
from task.training import episode_losses

_NO_KEYS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


def make_reports(
    predictor: PredictsDistributions, data: GroupData, config: RunConfig, names: Iterable[str]
) -> dict[str, Mean]:
    """Return the reports of these names.

    Args:
        predictor: has the parameters to report on.
        data: a training group's data.
        config: the run's settings.
        names: keys of `REPORTS`.

    Raises:
        ValueError: there is no such report.
    """
    unknown = sorted(set(names) - set(REPORTS))
    if unknown:
        raise ValueError(f"report {unknown[0]!r}: expected one of {', '.join(REPORTS)}")
    predictor.eval()
    return {name: REPORTS[name](predictor, data, config) for name in names}


@torch.inference_mode()
def _loss(predictor: PredictsDistributions, data: GroupData, config: RunConfig) -> Mean:
    """Return the loss on the questions that train, in the context of some of them.

    Of the categorical objective that is the divergence KL(answers || prediction): cross-entropy
    less the entropy of the answers, which differs between groups and which no predictor can lower.
    A rule that minimises the worst cross-entropy would attend to the most divided group for ever.
    """
    total = Mean()
    for split in evaluation_splits(data, config.evaluation, config.run.seed):
        context = split.context[: max(1, len(data.trainable) // 2)]
        target = np.setdiff1d(data.trainable, context)
        episode = make_episode(
            [(data, Split(context, target))], device=predictor.feature_mean.device
        )
        loss = float(episode_losses(predictor, episode, config.train.objective))
        if config.train.objective == "categorical":
            entropies_Q = entr(true_distributions(data, target).astype(np.float64)).sum(1)
            loss -= float(entropies_Q.mean())
        total += Mean(loss * len(target), len(target))
    return total


def _score(predictor: PredictsDistributions, data: GroupData, config: RunConfig) -> Mean:
    """Return the alignment score on the group's held-back questions."""
    return evaluate_group(predictor, data, config.evaluation, config.run.seed, _NO_KEYS).all


REPORTS: dict[str, Callable[[PredictsDistributions, GroupData, RunConfig], Mean]] = {
    records.LOSS_BEFORE: _loss,
    records.SCORE_BEFORE: _score,
}
