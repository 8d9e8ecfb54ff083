"""`score`: a group scores responses at home, and sends one number for each."""

from functools import lru_cache
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client_app.budget import charge_histograms
from client_app.module import population_prior, predictor_for
from client_app.node import is_simulated, settings_for
from task import records
from task.config import EncoderConfig, RunConfig
from task.contexts import Context as GroupContext
from task.errors import ConfigError
from task.evaluation import evaluation_splits
from task.feature_cache import FeatureCache
from task.features import load_group
from task.node_config import NodeConfig
from task.population import StoredPopulation
from task.predictor import PreferencePredictor
from task.reward import RewardModel
from task.scoring_config import require_scorable_unit


def score(message: Message, context: Context) -> RecordDict:
    """Score the message's responses by the answers of its group.

    The group's context is its first seeded draw of evaluation (`task.evaluation`): questions that
    may train, the same in every message. Nothing of it is in the reply, which is a (B,) float32
    array. Yet every score depends on it: whoever may ask without limit can come to know the
    context, which is why a node's owner has to allow it.

    Args:
        message: with the predictor's parameters, and `records.ROLLOUTS`.
        context: the node's.

    Raises:
        ConfigError: the node does not allow it, or a privacy unit is promised that it would break.
        RewardError: a response cannot be scored.
        EncoderError: the encoder cannot be loaded, or its features are not finite.
        UserError: the group's data cannot be read, or would cost more than the owner allows.
    """
    config = settings_for(context)
    require_scorable_unit(config.privacy.unit)
    _require_consent(context)
    group = str(message.content.config_records[records.BRIEFING][records.GROUP])
    charge_histograms(config, context, [group])
    rollouts = message.content.config_records[records.ROLLOUTS]
    model = _reward_model(config, message, group)
    scores_B = model.score(
        cast(list[str], rollouts[records.PROMPTS]),
        cast(list[str], rollouts[records.RESPONSES]),
        group=group,
        against=_against(rollouts),
    )
    array = Array(scores_B.cpu().numpy().astype(np.float32))
    return RecordDict({records.SCORES: ArrayRecord({records.SCORES: array})})


def _reward_model(config: RunConfig, message: Message, group: str) -> RewardModel:
    """Return the server's predictor with this group's own context."""
    predictor: PreferencePredictor = predictor_for(config, message)
    parameters = message.content.array_records[records.ARRAYS].to_torch_state_dict()
    predictor.set_parameters(parameters)
    prior = population_prior(config, message)
    size = (len(prior.answers.keys), len(prior.answers.totals)) if prior else (0, 0)
    predictor.population = StoredPopulation(config.predictor.population_weight, size)
    if prior:
        predictor.population.store(prior.answers)
    data = load_group(config, group)
    draw = evaluation_splits(data, config.evaluation, config.run.seed)[0]
    return RewardModel(
        predictor,
        {group: GroupContext.of_data(data, draw.context)},
        device=predictor.feature_mean.device,
        cache=_feature_cache(config.encoder),
    )


@lru_cache(maxsize=1)
def _feature_cache(config: EncoderConfig) -> FeatureCache:
    """Keep the encoder loaded, and texts' features, from one message of a process to the next."""
    return FeatureCache(config)


def _against(rollouts: ConfigRecord) -> list[list[str]] | None:
    """Return what each response is compared with; None: nothing."""
    if records.AGAINST not in rollouts:
        return None
    texts = iter(cast(list[str], rollouts[records.AGAINST]))
    lengths = cast(list[int], rollouts[records.AGAINST_LENGTHS])
    return [[next(texts) for _ in range(length)] for length in lengths]


def _require_consent(context: Context) -> None:
    if not is_simulated(context) and not NodeConfig.of(context.node_config).allow_scoring:
        raise ConfigError(
            "This node does not score responses: enough scores would tell its answers. Its owner "
            "can allow it with --node-config allow-scoring=true."
        )
