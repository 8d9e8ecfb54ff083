"""What a predictor without attention can do: a linear probe and an MLP probe.

Both see what the predictor sees (features, the context's answers, the training groups' trainable
questions), pooled in one place. They are the ablations that tell what attention is worth.

Suffixes: B episodes, C context options, T target options, Q target questions, O options of a
question, N options of many questions, d feature dimensions, w width.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from torch import Tensor, nn

from task.config import PredictorSettings
from task.episodes import Episode, Split
from task.features import FeatureSums, GroupData, feature_sums, option_rows
from task.seeding import derive_seed

ALPHAS = np.logspace(0, 6, 13)
"""Ridge penalties to choose from, by cross-validation."""

NUM_FOLDS = 5
SMALLEST_SHARE = 1e-3
"""Predicted shares are cut off here from below: a line knows nothing of the simplex."""


class LinearProbe:
    """Ridge regression from an option's features to its share, both less their question's mean.

    First over the pooled questions of the training groups; then, for the group at hand, over what
    that leaves of the context's answers. Both penalties are chosen by cross-validation over
    questions: rows of one question are never on both sides.

    Args:
        train: the training groups.
    """

    def __init__(self, train: Sequence[GroupData]) -> None:
        sums = sum((feature_sums(data) for data in train[1:]), feature_sums(train[0]))
        self._mean, self._std = sums.mean_and_std()
        parts = [self._rows(data, data.trainable) for data in train]
        x_Nd, y_N, asked_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        self._population = _cross_validated(x_Nd, y_N, asked_N)

    def __call__(self, data: GroupData, split: Split) -> NDArray[np.floating]:
        """Return (Q, O) distributions of the split's targets."""
        x_Nd, _, _ = self._rows(data, split.target)
        above_uniform_N = self._population.predict(x_Nd)
        if len(split.context) > 1:
            context_x_Cd, context_y_C, asked_C = self._rows(data, split.context)
            residual_C = context_y_C - self._population.predict(context_x_Cd)
            group = _cross_validated(context_x_Cd, residual_C, asked_C)
            above_uniform_N = above_uniform_N + group.predict(x_Nd)
        lengths = data.answers.lengths[split.target]
        shares_N = np.maximum(above_uniform_N + np.repeat(1 / lengths, lengths), SMALLEST_SHARE)
        exists_QO = np.arange(lengths.max()) < lengths[:, None]
        predicted_QO = np.zeros(exists_QO.shape)
        predicted_QO[exists_QO] = shares_N
        normalised: NDArray[np.floating] = predicted_QO / predicted_QO.sum(1, keepdims=True)
        return normalised

    def _rows(
        self, data: GroupData, questions: NDArray[np.int64]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.int64]]:
        """Return centred (N, d) features and (N,) shares of all options, and whose they are."""
        options = option_rows(data.answers.starts, data.answers.lengths, questions)
        lengths = data.answers.lengths[questions]
        starts = np.cumsum(lengths) - lengths
        x_Nd = (data.features[data.rows[options]] - self._mean) / self._std
        means_Qd = np.add.reduceat(x_Nd, starts) / lengths[:, None]
        above_uniform_N = data.answers.shares[options] - np.repeat(1 / lengths, lengths)
        asked_N = np.repeat(data.question_keys[questions], lengths)
        return x_Nd - np.repeat(means_Qd, lengths, axis=0), above_uniform_N, asked_N


def _cross_validated(
    x_Nd: NDArray[np.floating], y_N: NDArray[np.floating], asked_N: NDArray[np.int64]
) -> GridSearchCV:
    """Fit a ridge regression whose penalty is chosen over folds of questions."""
    num_folds = min(NUM_FOLDS, len(np.unique(asked_N)))
    search = GridSearchCV(
        Ridge(fit_intercept=False),
        {"alpha": ALPHAS},
        scoring="neg_mean_squared_error",
        cv=list(GroupKFold(num_folds).split(x_Nd, y_N, asked_N)),
    )
    return search.fit(x_Nd, y_N)


class MlpProbe(nn.Module):
    """The predictor with attention replaced by a mean over the context.

    A conditional neural process (arXiv 1807.01613, eq. 4): context options with their shares are
    encoded one by one and averaged; an MLP reads that mean beside a target option's features. As
    deep and as wide as the predictor's embedder and head.

    Args:
        settings: the predictor's settings; `width` and `embedder_depth` are used.
        sums: feature sums over the training groups' questions, for standardisation.
        seed: the run's seed.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, settings: PredictorSettings, sums: FeatureSums, seed: int) -> None:
        super().__init__()
        dimension, width = len(sums.total), settings.width
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "initial parameters of the MLP probe"))
            self.context_encoder = _mlp(dimension + 1, width, width, settings.embedder_depth)
            self.head = _mlp(dimension + width, width, 2, settings.embedder_depth)
        mean, std = sums.mean_and_std()
        if not settings.standardise_features:
            mean, std = np.zeros_like(mean), np.ones_like(std)
        self.register_buffer("feature_mean", torch.from_numpy(mean))
        self.register_buffer("feature_std", torch.from_numpy(std))

    def log_distributions(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Return (B, Q, O) log probabilities (-inf where no option) and log deviations."""
        context_x_BCd = self._standardised(episode.context_x_BCd)
        answers_BC1 = episode.context_y_BC.unsqueeze(-1)
        encoded_BCw = self.context_encoder(torch.cat((context_x_BCd, answers_BC1), -1))
        if episode.context_mask_BC is not None:
            encoded_BCw = encoded_BCw * episode.context_mask_BC.unsqueeze(-1)
            number_B1 = episode.context_mask_BC.sum(1, keepdim=True)
        else:
            number_B1 = encoded_BCw.new_full((len(encoded_BCw), 1), encoded_BCw.shape[1])
        mean_Bw = encoded_BCw.sum(1) / number_B1.clamp(min=1)
        target_x_BTd = self._standardised(episode.target_x_BTd)
        mean_BTw = mean_Bw.unsqueeze(1).expand(-1, target_x_BTd.shape[1], -1)
        value_BT, log_std_BT = self.head(torch.cat((target_x_BTd, mean_BTw), -1)).unbind(-1)
        return episode.log_softmax(value_BT), episode.by_question(log_std_BT)

    def distributions(self, episode: Episode) -> Tensor:
        """Return (B, Q, O) predicted answer distributions, 0 where a question has no option."""
        return self.log_distributions(episode)[0].exp()

    def _standardised(self, x: Tensor) -> Tensor:
        return (x - self.feature_mean) / self.feature_std


def _mlp(inputs: int, width: int, outputs: int, depth: int) -> nn.Sequential:
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
