"""ClientApp: translates Flower records and calls `task`. A node may hold several groups."""

from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client_app import question_unit, scoring
from client_app.budget import charge_histograms, charge_run, question_ledger
from client_app.mods import compress_update, limit_time, report_errors
from client_app.module import population_prior, predictor_for
from client_app.node import groups_held, settings_for
from client_app.secure_aggregation import secure_aggregation
from client_app.state import state_folder
from task import records
from task.evaluation import evaluate_group
from task.features import feature_sums, load_fingerprint, load_group
from task.personal import PersonalStore, train_personal
from task.population import PopulationAnswers
from task.reports import make_reports
from task.training import train_client

app = ClientApp(mods=[report_errors, limit_time, secure_aggregation, compress_update])

# `train` and `evaluate` do no more than call `task`, so the cohort engine may compute many clients
# at once without calling them. Set this to False when you change one of them or add a mod.
STACKABLE = True


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say which groups this node holds, with feature sums of those that train."""
    config = settings_for(context)
    held = groups_held(config, context)
    charge_histograms(config, context, held)
    groups = [load_group(config, group) for group in held]
    if config.privacy.unit == question_unit.UNIT:
        question_unit.require_episodes(groups, config)
    sums = [feature_sums(data) for data in groups if data.role == "train"]
    holdings = ConfigRecord(
        {
            records.GROUPS: [data.group for data in groups],
            records.ROLES: [str(data.role) for data in groups],
            records.FINGERPRINT: load_fingerprint(config.encoder),
            records.NUM_PARTITIONS: int(context.node_config.get("num-partitions", 0)),
        }
    )
    keys = {str(index): Array(data.question_keys) for index, data in enumerate(groups)}
    exact = {
        records.SUM_COUNT: Array(np.array([each.count for each in sums])),
        records.SUM_TOTAL: Array(np.array([each.total for each in sums])),
        records.SUM_SQUARES: Array(np.array([each.squares for each in sums])),
    }
    content = RecordDict(
        {
            records.HOLDINGS: holdings,
            records.HELD_QUESTIONS: ArrayRecord(keys),
            records.FEATURE_SUMS: ArrayRecord(exact),
        }
    )
    if config.predictor.population_weight:
        train_groups = [data for data in groups if data.role == "train"]
        disclosed = {
            f"{index}.{name}": Array(array)
            for index, data in enumerate(train_groups)
            for name, array in PopulationAnswers.of(data).to_arrays().items()
        }
        content[records.ANSWERS] = ArrayRecord(disclosed)
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the predictor on one group, from the global parameters."""
    config = settings_for(context)
    if config.privacy.unit == question_unit.UNIT:
        ledger = question_ledger(config, context, message)
        return Message(question_unit.train(message, config, ledger), reply_to=message)
    briefing = message.content.config_records[records.BRIEFING]
    charge_histograms(config, context, [str(briefing[records.GROUP])])
    charge_run(config, context, message, str(briefing[records.GROUP]))
    settings = message.content.config_records.get(records.CONFIG, ConfigRecord())
    predictor = predictor_for(config, message)
    parameters = message.content.array_records[records.ARRAYS].to_torch_state_dict()
    data = load_group(config, str(briefing[records.GROUP]))
    asked: list[str] = settings.get(records.REPORTS, [])  # type: ignore[assignment]
    if asked:
        predictor.set_parameters(parameters)
    reports = make_reports(predictor, data, config, asked)
    training: dict[str, Any] = {
        "config": config.train,
        "learning_rates": briefing[records.LEARNING_RATES],
        "seed": config.run.seed,
        "server_round": briefing[records.ROUND],
    }
    if way := str(settings.get(records.PERSONAL, "")):
        update = train_personal(
            way,
            predictor,
            parameters,
            data,
            PersonalStore(state_folder(config, context, message)),
            proximal_mu=float(settings[records.PERSONAL_MU]),  # type: ignore[arg-type]
            **training,
        )
    else:
        mu = float(settings.get(records.PROXIMAL_MU, 0.0))  # type: ignore[arg-type]
        update = train_client(predictor, parameters, data, proximal_mu=mu, **training)
    metrics: dict[str, Any] = {
        records.NUM_EXAMPLES: update.num_examples,
        records.LOSS: update.loss,
        **{name: list(astuple(report)) for name, report in reports.items()},
    }
    content = RecordDict(
        {
            records.ARRAYS: ArrayRecord(update.parameters),
            records.METRICS: MetricRecord(metrics),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the predictor on one group's targets."""
    config = settings_for(context)
    if config.privacy.unit == question_unit.UNIT and config.privacy.metrics != "full":
        ledger = question_ledger(config, context, message)
        return Message(question_unit.evaluate(message, config, ledger), reply_to=message)
    briefing = message.content.config_records[records.BRIEFING]
    charge_histograms(config, context, [str(briefing[records.GROUP])])
    seen = message.content.array_records[records.SEEN_QUESTIONS][records.QUESTION_KEYS].numpy()
    predictor = predictor_for(config, message)
    parameters = message.content.array_records[records.ARRAYS].to_torch_state_dict()
    predictor.set_parameters(parameters)
    data = load_group(config, str(briefing[records.GROUP]))
    prior = population_prior(config, message)
    score_group = partial(
        evaluate_group, predictor, data, config.evaluation, config.run.seed, seen, prior
    )
    scores = score_group()
    metrics = MetricRecord(
        {
            records.NUM_EXAMPLES: int(scores.all.weight),
            **scores.to_metrics(),
        }
    )
    settings = message.content.config_records.get(records.CONFIG, ConfigRecord())
    if records.PERSONAL in settings and (
        personal := PersonalStore(state_folder(config, context, message)).load(data.group)
    ):
        predictor.set_parameters(personal.parameters)
        metrics[records.PERSONAL_SCORE] = list(astuple(score_group().all))
    return Message(RecordDict({records.METRICS: metrics}), reply_to=message)


@app.query("score")
def score(message: Message, context: Context) -> Message:
    """Score responses by one group's answers: one number each."""
    return Message(scoring.score(message, context), reply_to=message)
