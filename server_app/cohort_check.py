"""Making sure that stacks compute what the ClientApp would."""

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message

from server_app.arrays import layout_of, to_vector
from server_app.cohort_jobs import call_job, score_jobs, train_jobs
from server_app.cohort_workers import CLIENT_APP, Workers
from server_app.metadata import is_train
from task import records
from task.config import RunConfig
from task.errors import RoundError

UPDATE_TOLERANCES = {"float32": 0.05, "tf32": 0.3, "bfloat16": 0.6}
"""Largest L2 distance of two updates of one step, relative to the update. Adam's first step is the
sign of each gradient, so rounding turns some entries around; another training gives about 1.4."""

METRIC_TOLERANCES = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}
"""Largest difference of two metrics, relative to the metric."""


def require_same_as_client_app(
    workers: Workers, config: RunConfig, messages: Sequence[Message]
) -> None:
    """Let the ClientApp and the stacks answer one message (to train: for one step), and compare.

    Whoever changes a handler of the ClientApp and forgets to say so (`STACKABLE`) would otherwise
    get results of the unchanged one. A client that both fail is passed over for the next one.

    Raises:
        RoundError: they differ.
    """
    for message in messages:
        asked = _with_one_step(message) if is_train(message) else message
        # Beside another one: where clients are stacked, a stack is what is compared.
        beside = [other for other in messages[:2] if other is not message and is_train(other)]
        called = _called(workers, asked)
        computed = _computed(workers, config, asked, [_with_one_step(other) for other in beside])
        if _failure(called) and _failure(computed):
            continue
        if difference := _difference(config, asked, called, computed):
            raise RoundError(
                f"The ClientApp ({CLIENT_APP}) and the cohort engine differ on the same message "
                f"({message.metadata.message_type}): {difference}. If you changed the ClientApp, "
                "set STACKABLE = False in it: the engine then calls it for every client."
            )
        return


def _called(workers: Workers, message: Message) -> Message:
    """Return the ClientApp's reply."""
    job = call_job(message, workers.resources.num_workers)
    (reply,) = job.read(
        workers.submit(job.method, *job.arguments, worker=job.worker).result()
    ).replies
    return reply


def _computed(
    workers: Workers, config: RunConfig, message: Message, beside: Sequence[Message]
) -> Message:
    """Return the stacks' reply."""
    if is_train(message):
        jobs, replies = train_jobs(workers, config, [message, *beside], None)
    else:
        jobs, replies = score_jobs(workers, config, [message])
    for job in jobs:
        result = workers.submit(job.method, *job.arguments, worker=job.worker).result()
        replies += job.read(result).replies
    of_message = {reply.metadata.reply_to_message_id: reply for reply in replies}
    return of_message[message.metadata.message_id]


def _difference(
    config: RunConfig, message: Message, called: Message, computed: Message
) -> str | None:
    """Say how two replies to a message differ, if they do."""
    if failure := _failure(called) or _failure(computed):
        return f"only one of them answers, the other fails ({failure})"
    precision = config.engine.precision
    if is_train(message):
        arrays = message.content.array_records[records.ARRAYS]
        layout = layout_of(arrays)
        start_P = to_vector(layout, arrays)
        one_P, other_P = (
            to_vector(layout, reply.content.array_records[records.ARRAYS]) - start_P
            for reply in (called, computed)
        )
        distance = float((one_P - other_P).norm() / one_P.norm().clamp(min=1e-12))
        if not distance <= UPDATE_TOLERANCES[precision]:
            return f"after one local step they are {distance:.0%} of the update apart"
    metrics, others = (_metrics(reply) for reply in (called, computed))
    for key, value in metrics.items():
        if key not in others or not np.allclose(value, others[key], METRIC_TOLERANCES[precision]):
            return f"{key} is {value} and {others.get(key)}"
    return None


def _failure(reply: Message) -> str | None:
    if reply.has_error():
        return str(reply.error.reason)
    for arrays in reply.content.array_records.values():
        for name, array in arrays.items():
            if not torch.from_numpy(array.numpy()).isfinite().all():
                return f"parameter {name} is not finite"
    return None


def _metrics(reply: Message) -> MetricRecord:
    return reply.content.metric_records[records.METRICS]


def _with_one_step(message: Message) -> Message:
    content = RecordDict({**message.content})
    briefing = ConfigRecord({**message.content.config_records[records.BRIEFING]})
    briefing[records.LEARNING_RATES] = briefing[records.LEARNING_RATES][:1]  # type: ignore[index]
    content[records.BRIEFING] = briefing
    return make_message(message.metadata, content)
