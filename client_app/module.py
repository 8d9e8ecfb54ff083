"""The predictor's module of a client's process, with what the server sent."""

from functools import lru_cache

import torch
from flwr.app import Message

from task import records
from task.config import PredictorSettings, RunConfig
from task.errors import ConfigError
from task.population import PopulationAnswers, PopulationPrior
from task.predictor import PreferencePredictor


def predictor_for(config: RunConfig, message: Message) -> PreferencePredictor:
    """Return this process's module, given the server's feature statistics."""
    statistics = message.content.array_records[records.FEATURE_STATISTICS]
    mean, std = (statistics[key].numpy() for key in (records.FEATURE_MEAN, records.FEATURE_STD))
    predictor = _module(config.predictor, len(mean), config.engine.device)
    predictor.feature_mean.copy_(torch.from_numpy(mean))
    predictor.feature_std.copy_(torch.from_numpy(std))
    return predictor


def population_prior(config: RunConfig, message: Message) -> PopulationPrior | None:
    """Return the population's answers that the server sent to be mixed in; None: it sent none."""
    population = message.content.array_records.get(records.POPULATION)
    if not population:
        return None
    arrays = {name: array.numpy() for name, array in population.items()}
    answers = PopulationAnswers.from_arrays(arrays)
    return PopulationPrior(answers, config.predictor.population_weight)


@lru_cache(maxsize=1)
def _module(settings: PredictorSettings, feature_dimension: int, wish: str) -> PreferencePredictor:
    """Build the module once per process; every message overwrites all it holds."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "engine.device = 'cuda': this client sees no CUDA device. Use 'auto', or give clients "
            "a share of a GPU (client-resources-num-gpus)."
        )
    device = "cuda" if torch.cuda.is_available() and wish != "cpu" else "cpu"
    return PreferencePredictor.of(settings, feature_dimension).to(device)
