"""Mods of the ClientApp."""

import faulthandler
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from client_app.node import is_simulated
from client_app.state import state_folder
from task import records
from task.aggregation import clip_update
from task.compression import compress, decompress
from task.config import RunConfig
from task.errors import BudgetError, ConfigError, RoundError, SurveyError, UserError
from task.parameters import Layout
from task.round_store import Kept, RoundStore
from task.seeding import generator

IN_ITS_LOG = "the node's own log says why"
SENT = (BudgetError, ConfigError, RoundError)
"""Errors that speak of what the server asked for, or of epsilons: it may read them as they are.

Of the others no text leaves a node of its own: they may quote its data, files or folders.
"""
RESIDUAL = "residual"  # a (P,) vector: what compression left out of a group's updates so far


def report_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer with one readable reason when a handler raises.

    The server excludes and names the client, and the round goes on. Left to itself Flower logs
    several tracebacks per failing client and sends a wrapped one as the reason. What may quote data
    stays on a node of its own, in its log.
    """
    try:
        return call_next(message, context)
    except UserError as error:
        reason = full = str(error)
        if isinstance(error, SurveyError):
            reason = f"its survey cannot be used; {IN_ITS_LOG}"
        elif type(error) not in SENT:
            reason = f"{type(error).__name__}; {IN_ITS_LOG}"
    except Exception as error:  # whatever a client raises must reach the server as a reason
        place = traceback.extract_tb(error.__traceback__)[-1]
        full = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        where = f"{Path(place.filename).name}:{place.lineno}"
        reason = f"{type(error).__name__} in {where}; {IN_ITS_LOG}"
        traceback.print_exc()
    if is_simulated(context):
        reason = full
    else:
        print(f"error: {full}", file=sys.stderr, flush=True)
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def limit_time(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """End the process of a node of its own that is at work after the server has stopped waiting.

    A SuperNode waits for its ClientApp without limit, and takes no other message meanwhile. Ended,
    with every thread's traceback in the node's log, it is reported as failed and the node is free.
    """
    if is_simulated(context):  # a simulation's process computes other clients too
        return call_next(message, context)
    limit = RunConfig.from_flat(context.run_config).train.round_timeout
    faulthandler.dump_traceback_later(limit, exit=True, file=2)  # standard error
    try:
        return call_next(message, context)
    finally:
        faulthandler.cancel_dump_traceback_later()


def compress_update(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Send a compressed update instead of parameters, as `compression.*` says.

    The update is clipped first, to the norm that the server will clip to: what is rounded is then
    within the bound already, and the server's clipping has nothing but the rounding to correct.
    `top-k` adds what earlier rounds left out (error feedback, arXiv 1809.07599, algorithm 1); the
    rest is kept in a file of the client's. Asked for a round again, it adds what was left out
    before that. What a reply carried that the server does not use (it came too late, say) is lost,
    as it is without compression.
    """
    reply = call_next(message, context)
    config = RunConfig.from_flat(context.run_config)
    is_train = message.metadata.message_type == MessageType.TRAIN
    if config.compression.name == "none" or not is_train or reply.has_error():
        return reply
    sent = message.content.array_records[records.ARRAYS].to_torch_state_dict()
    trained = reply.content.array_records[records.ARRAYS].to_torch_state_dict()
    briefing = message.content.config_records[records.BRIEFING]
    group = str(briefing[records.GROUP])
    layout = Layout.of({name: tensor.shape for name, tensor in sent.items()})
    start_P, values_P = layout.flatten(sent), layout.flatten(trained)
    server_round = int(briefing[records.ROUND])  # type: ignore[arg-type]
    store, left_out = None, None
    if config.compression.name == "top-k":
        store = residual_store(state_folder(config, context, message))
        left_out = store.start_of(group, server_round)
    if left_out:
        values_P = values_P + left_out[RESIDUAL]
    if clipping_norm := float(briefing.get(records.CLIPPING_NORM, 0.0)):  # type: ignore[arg-type]
        values_P = clip_update(start_P, values_P, clipping_norm)
    update_P = (values_P - start_P).numpy()
    random = generator(config.run.seed, "stochastic rounding", server_round, group)
    compressed = compress(update_P, config.compression, random)
    if store:
        residual_P = torch.from_numpy(update_P - decompress(compressed, layout.size))
        store.write(group, Kept({RESIDUAL: residual_P}, left_out, server_round))
    arrays = ArrayRecord({key: Array(np.asarray(array)) for key, array in compressed.items()})
    metrics = reply.content.metric_records[records.METRICS]
    content = RecordDict({records.UPDATE: arrays, records.METRICS: metrics})
    return Message(content, reply_to=message)


def residual_store(folder: Path) -> RoundStore:
    """Return where a client keeps what compression left out."""
    without = "loses what compression left out of its updates so far"
    return RoundStore(folder, suffix=".residual", without=without)
