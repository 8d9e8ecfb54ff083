"""A Bradley-Terry reward head on an encoder's features: what a reward model usually is.

Suffixes: B episodes, Q questions, O options of a question.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from task.config import PredictorSettings
from task.episodes import Episode
from task.features import FeatureSums
from task.seeding import derive_seed


class BradleyTerryHead(nn.Module):
    """Scores a response by its features alone: the same for all groups.

    The softmax of two scores is the Bradley-Terry model. It stands where training expects a
    predictor; the context is not read.

    Args:
        settings: the predictor's settings; `width` and `embedder_depth` are used.
        sums: feature sums over the training groups' questions, for standardisation.
        seed: of the initial parameters.
        depth: layers; 1: linear. None: as many as the predictor's embedder and head.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        settings: PredictorSettings,
        sums: FeatureSums,
        seed: int,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        depth = depth or settings.embedder_depth + 2
        sizes = [len(sums.total), *[settings.width] * (depth - 1), 1]
        layers: list[nn.Module] = []
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "initial parameters of a Bradley-Terry head"))
            for size, following in pairwise(sizes):
                layers += [nn.Linear(size, following), nn.ReLU()]
        self.score = nn.Sequential(*layers[:-1])
        mean, std = sums.mean_and_std()
        self.register_buffer("feature_mean", torch.from_numpy(mean))
        self.register_buffer("feature_std", torch.from_numpy(std))

    def log_distributions(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Return (B, Q, O) log probabilities (-inf where no option) and zeros."""
        x_BTd = (episode.target_x_BTd - self.feature_mean) / self.feature_std
        logs_BQO = episode.log_softmax(self.score(x_BTd).squeeze(-1))
        return logs_BQO, torch.zeros_like(logs_BQO)

    def distributions(self, episode: Episode) -> Tensor:
        """Return (B, Q, O) predicted answer distributions, 0 where a question has no option."""
        return self.log_distributions(episode)[0].exp()
