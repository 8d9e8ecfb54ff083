"""`train` and `evaluate` under `privacy.unit` `question`: what leaves the client is protected."""

import math
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client_app.module import predictor_for
from task import records
from task.config import RunConfig
from task.episodes import disjoint_episodes
from task.errors import ConfigError
from task.features import GroupData, load_group
from task.private_scoring import noisy_score
from task.question_ledger import QuestionLedger

UNIT = "question"


def require_episodes(groups: Iterable[GroupData], config: RunConfig) -> None:
    """Raise a `ConfigError` unless every training group can fill an episode."""
    for data in groups:
        if data.role == "train":
            disjoint_episodes(data, config.privacy, config.run.seed, 1)


def train(message: Message, config: RunConfig, ledger: QuestionLedger) -> RecordDict:
    """Train one group with DP-SGD; see `task.private_training`.

    Args:
        message: as `client_app.app.train` gets it.
        config: the run's settings.
        ledger: the client's.

    Raises:
        ConfigError: the strategy asks for what this unit does not protect.
        UserError: see `train_privately`.
    """
    # Here, because Opacus takes a second and sets up logging, and other units do without it.
    from task.private_training import train_privately

    settings = _settings(message)
    if asked := settings.get(records.REPORTS):
        raise ConfigError(
            f"strategy.name = {config.strategy.name!r} asks every group to report {asked!r}, which "
            f"privacy.unit = {UNIT!r} does not protect: expected a strategy without reports."
        )
    briefing = message.content.config_records[records.BRIEFING]
    data = load_group(config, str(briefing[records.GROUP]))
    rates: Any = briefing[records.LEARNING_RATES]
    update = train_privately(
        predictor_for(config, message),
        message.content.array_records[records.ARRAYS].to_torch_state_dict(),
        data,
        config,
        learning_rates=rates,
        server_round=int(briefing[records.ROUND]),  # type: ignore[arg-type]
        ledger=ledger,
        proximal_mu=float(settings.get(records.PROXIMAL_MU, 0.0)),  # type: ignore[arg-type]
    )
    metrics = MetricRecord({records.NUM_EXAMPLES: update.num_examples, **_spent(ledger, data)})
    if config.privacy.metrics == "full":
        metrics[records.LOSS] = update.loss
    return RecordDict({records.ARRAYS: ArrayRecord(update.parameters), records.METRICS: metrics})


def evaluate(message: Message, config: RunConfig, ledger: QuestionLedger) -> RecordDict:
    """Score one group with noise; see `task.private_scoring`. Its arguments are those of `train`.

    Raises:
        ConfigError: scores are off, or the strategy asks for a group's own parameters.
        UserError: see `noisy_score`.
    """
    if config.privacy.metrics != "noisy":
        raise ConfigError(
            f"privacy.metrics = {config.privacy.metrics!r}: expected 'noisy' or 'full' where "
            "groups are asked for their scores."
        )
    _settings(message)
    briefing = message.content.config_records[records.BRIEFING]
    predictor = predictor_for(config, message)
    predictor.set_parameters(message.content.array_records[records.ARRAYS].to_torch_state_dict())
    data = load_group(config, str(briefing[records.GROUP]))
    server_round = int(briefing[records.ROUND])  # type: ignore[arg-type]
    score = noisy_score(predictor, data, config, server_round=server_round, ledger=ledger)
    metrics: dict[str, int | float] = {records.NUM_EXAMPLES: 1, records.NOISY_SCORE: score}
    return RecordDict({records.METRICS: MetricRecord({**metrics, **_spent(ledger, data)})})


def _spent(ledger: QuestionLedger, data: GroupData) -> dict[str, float]:
    """Return what the group has spent, as a metric; without noise that is no number to send."""
    spent = ledger.epsilon(data.group)
    return {records.EPSILON: spent} if math.isfinite(spent) else {}


def _settings(message: Message) -> ConfigRecord:
    """Return the strategy's settings, unless it asks for a group's own parameters."""
    settings = message.content.config_records.get(records.CONFIG, ConfigRecord())
    if way := settings.get(records.PERSONAL):
        raise ConfigError(
            f"personal = {way!r}: the strategy trains parameters of a group's own, which "
            f"privacy.unit = {UNIT!r} does not protect. Use another strategy."
        )
    return settings
