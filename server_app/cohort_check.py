"""Making sure that stacks compute what the ClientApp would."""

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message

from server_app.arrays import layout_of, to_vector
from server_app.cohort_jobs import call_job, train_jobs
from server_app.cohort_workers import CLIENT_APP, Workers
from task import records
from task.config import RunConfig
from task.errors import RoundError

TOLERANCES = {"float32": 0.05, "tf32": 0.3, "bfloat16": 0.6}
"""Largest L2 distance of the two updates, relative to the update. Adam's first step is the sign of
each gradient, so rounding turns some entries around; training on something else gives about 1.4."""


def require_same_training(workers: Workers, config: RunConfig, message: Message) -> None:
    """Let the ClientApp and the stacks train one client for one step, and compare.

    Whoever changes a handler of the ClientApp and forgets to say so (`STACKABLE`) would otherwise
    get results of the unchanged one.

    Raises:
        RoundError: they differ.
    """
    arrays = message.content.array_records[records.ARRAYS]
    layout = layout_of(arrays)
    start_P = to_vector(layout, arrays)
    one_step = _with_one_step(message)
    call = call_job(one_step, workers.resources.num_workers)
    (job,), _ = train_jobs(workers, config, [one_step], None)
    updates: list[torch.Tensor] = []
    for each in (call, job):
        result = workers.submit(each.method, *each.arguments, worker=each.worker).result()
        (reply,) = each.read(result).replies
        if reply.has_error():
            raise RoundError(f"The first client cannot be trained: {reply.error.reason}")
        parameters = reply.content.array_records[records.ARRAYS]
        updates.append(to_vector(layout, parameters) - start_P)
    distance = float((updates[0] - updates[1]).norm() / updates[0].norm().clamp(min=1e-12))
    if not distance <= TOLERANCES[config.engine.precision]:
        raise RoundError(
            f"After one local step the ClientApp ({CLIENT_APP}) and the cohort engine differ by "
            f"{distance:.0%} of the update. If you changed the ClientApp, set STACKABLE = False in "
            "it: the engine then calls it for every client."
        )


def _with_one_step(message: Message) -> Message:
    content = RecordDict({**message.content})
    briefing = ConfigRecord({**message.content.config_records[records.BRIEFING]})
    briefing[records.LEARNING_RATES] = briefing[records.LEARNING_RATES][:1]  # type: ignore[index]
    content[records.BRIEFING] = briefing
    return make_message(message.metadata, content)
