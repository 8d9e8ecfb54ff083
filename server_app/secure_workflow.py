"""Flower's SecAgg+ workflow, driven without the legacy strategy and client manager it is made for.

The workflow asks a strategy which clients fit, sends the protocol's messages to them in four stages
and hands the strategy the mean of what they sent. `Wire` stands for the grid: it adds to those
messages what this app's clients need, and passes on valid replies only, so that one client's fault
costs that client and not the round.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    NDArrays,
    Parameters,
    Status,
    ndarray_to_bytes,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import Strategy
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import (
    SecAggPlusWorkflow,
    WorkflowState,
)
from flwr.serverapp import Grid

from server_app.arrays import num_bytes
from server_app.reply_metrics import ReplyError
from server_app.sending import reason_of
from task import records
from task.seeding import derive_seed

Send = Callable[[Sequence[Message], float | None], Sequence[Message]]
"""(messages to clients, seconds to wait) to the replies there are by then."""

_ANSWERS: dict[str, dict[str, type]] = {
    Stage.SETUP: {Key.PUBLIC_KEY_1: bytes, Key.PUBLIC_KEY_2: bytes},
    Stage.SHARE_KEYS: {Key.DESTINATION_LIST: int, Key.CIPHERTEXT_LIST: bytes},
    Stage.COLLECT_MASKED_VECTORS: {Key.MASKED_PARAMETERS: bytes},
    Stage.UNMASK: {Key.NODE_ID_LIST: int, Key.SHARE_LIST: bytes},
}
"""What clients answer; lists of that but for the keys."""


class Wire:
    """What the workflow takes for a grid.

    Args:
        batch: client id to the strategy's message to train.
        settings: `records.SECURE_AGGREGATION` of every message, but for the client's id.
        size: V, entries of a masked vector.
        send: sends messages to clients.
        node_of: client id to node, which is sent one message at a time.

    Attributes:
        failures: client id to the reason why it did not answer a stage.
        bytes_down: array and protocol bytes sent to clients; `bytes_up` received from them.
    """

    def __init__(
        self,
        batch: dict[int, Message],
        settings: ConfigRecord,
        size: int,
        send: Send,
        node_of: Callable[[int], int],
    ) -> None:
        self.failures: dict[int, str] = {}
        self.bytes_down = self.bytes_up = 0
        self._batch = batch
        self._settings = settings
        self._size = size
        self._send = send
        self._node_of = node_of

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send a stage's messages; return the valid replies in the order of client ids."""
        waves: list[list[Message]] = []
        turns: dict[int, int] = {}
        for message in sorted(messages, key=lambda each: each.metadata.dst_node_id):
            node = self._node_of(message.metadata.dst_node_id)
            turn = turns[node] = turns.get(node, -1) + 1
            waves += [[]] if turn == len(waves) else []
            waves[turn].append(message)
        valid: dict[int, Message] = {}
        for wave in waves:
            asked = {message.metadata.dst_node_id: message for message in wave}
            for client_id in asked:
                self.failures[client_id] = "no reply in time"
            for reply in self._send([self._complete(each) for each in wave], timeout):
                client_id = reply.metadata.src_node_id
                try:
                    valid[client_id] = self._accept(asked[client_id], reply)
                    del self.failures[client_id]
                except ReplyError as fault:
                    self.failures[client_id] = str(fault)
        return [valid[client_id] for client_id in sorted(valid)]

    def _complete(self, message: Message) -> Message:
        """Return a message of the protocol with what the client needs besides."""
        client_id = message.metadata.dst_node_id
        protocol = message.content.config_records[RECORD_KEY_CONFIGS]
        strategy = self._batch[client_id].content
        settings = ConfigRecord({**self._settings, records.CLIENT_ID: client_id})
        content = RecordDict({RECORD_KEY_CONFIGS: protocol, records.SECURE_AGGREGATION: settings})
        if records.CONFIG in strategy.config_records:
            content[records.CONFIG] = strategy.config_records[records.CONFIG]
        if protocol[Key.STAGE] == Stage.COLLECT_MASKED_VECTORS:
            content[records.ARRAYS] = strategy.array_records[records.ARRAYS]
            self.bytes_down += num_bytes(strategy.array_records[records.ARRAYS])
        self.bytes_down += _num_bytes(protocol)
        return make_message(message.metadata, content)

    def _accept(self, asked: Message, reply: Message) -> Message:
        """Return a reply as the workflow expects it.

        Raises:
            ReplyError: it is an error, or not an answer of the protocol.
        """
        if reply.has_error():
            raise ReplyError(reason_of(reply.error))
        request = asked.content.config_records[RECORD_KEY_CONFIGS]
        stage = cast(str, request[Key.STAGE])
        answer = reply.content.config_records.get(RECORD_KEY_CONFIGS, ConfigRecord())
        if set(reply.content) != {RECORD_KEY_CONFIGS} or set(answer) != set(_ANSWERS[stage]):
            raise ReplyError(f"its reply to the stage {stage!r} is not of the protocol")
        self.bytes_up += _num_bytes(answer)
        lists = [
            cast(list[Any], [answer[key]] if stage == Stage.SETUP else answer[key])
            for key in _ANSWERS[stage]
        ]
        sound = all(
            isinstance(values, list) and all(isinstance(value, kind) for value in values)
            for values, kind in zip(lists, _ANSWERS[stage].values(), strict=True)
        )
        if sound and stage == Stage.UNMASK:
            owners = [
                *cast(list[int], request[Key.ACTIVE_NODE_ID_LIST]),
                *cast(list[int], request[Key.DEAD_NODE_ID_LIST]),
            ]
            sound = sorted(lists[0]) == sorted(owners)
        if sound and stage == Stage.COLLECT_MASKED_VECTORS:
            sound = [len(each) for each in lists[0]] == [4, 4 * self._size]
        sound = sound and len({len(values) for values in lists}) == 1
        if not sound:
            raise ReplyError(f"its reply to the stage {stage!r} cannot be read")
        if stage != Stage.COLLECT_MASKED_VECTORS:
            return make_message(reply.metadata, RecordDict({RECORD_KEY_CONFIGS: answer}))
        nothing = FitRes(Status(Code.OK, ""), Parameters([], ""), 1, {})
        content = fitres_to_recorddict(nothing, keep_input=False)
        masked = [np.frombuffer(each, "<u4").astype(np.int64) for each in lists[0]]
        content[RECORD_KEY_CONFIGS] = ConfigRecord(
            {Key.MASKED_PARAMETERS: [ndarray_to_bytes(each) for each in masked]}
        )
        return make_message(reply.metadata, content)


def _num_bytes(record: ConfigRecord) -> int:
    """Return about how many bytes a record takes (Flower's own fails on an empty list)."""
    lists = (value if isinstance(value, list) else [value] for value in record.values())
    return sum(len(v) if isinstance(v, str | bytes) else 8 for each in lists for v in each)


class Workflow(SecAggPlusWorkflow):
    """Flower's workflow, but for clients that are lost early, and for a least number of survivors.

    Flower's counts a client that is lost before it has shared its secrets among those whose masks
    must be taken off; nobody has shares of them, so every such round fails. Here it drops out of
    the protocol, as in the paper (the set U2).

    Args (others are `SecAggPlusWorkflow`'s, or `task.secure_aggregation`'s):
        least_survivors: with fewer masked vectors nothing is unmasked.
    """

    def __init__(
        self,
        *,
        shares: int,
        threshold: int,
        least_survivors: int,
        limit: float,
        levels: int,
        timeout: float | None,
    ) -> None:
        super().__init__(
            shares,
            threshold / shares,  # Flower's own check refuses an integer that is all shares
            max_weight=1.0,  # weights are in the vectors
            clipping_range=limit,
            quantization_range=levels,
            timeout=timeout,
        )
        self.halted_in = ""
        self.least_survivors = least_survivors
        self.least_shares = threshold

    def setup_stage(self, grid: Grid, context: LegacyContext, state: WorkflowState) -> bool:
        """Collect public keys."""
        return self._goes_on(super().setup_stage(grid, context, state), Stage.SETUP, state)

    def share_keys_stage(self, grid: Grid, context: LegacyContext, state: WorkflowState) -> bool:
        """Let clients share their secrets."""
        done = super().share_keys_stage(grid, context, state)
        return self._goes_on(done, Stage.SHARE_KEYS, state)

    def collect_masked_vectors_stage(
        self, grid: Grid, context: LegacyContext, state: WorkflowState
    ) -> bool:
        """Collect masked vectors."""
        done = super().collect_masked_vectors_stage(grid, context, state)
        enough = len(state.active_node_ids) >= self.least_survivors
        self.halted_in = "" if done and enough else Stage.COLLECT_MASKED_VECTORS
        return done and enough

    def unmask_stage(self, grid: Grid, context: LegacyContext, state: WorkflowState) -> bool:
        """Collect shares, and take the masks off the sum."""
        done = super().unmask_stage(grid, context, state)
        self.halted_in = "" if done else Stage.UNMASK
        return done

    def _goes_on(self, done: bool, stage: str, state: WorkflowState) -> bool:
        """Leave out the clients that were lost; return whether enough are left."""
        remaining = state.sampled_node_ids & state.active_node_ids
        state.sampled_node_ids = remaining
        state.nid_to_neighbours = {
            client_id: neighbours & remaining
            for client_id, neighbours in state.nid_to_neighbours.items()
            if client_id in remaining
        }
        enough = len(remaining) >= self.least_survivors
        self.halted_in = "" if done and enough else stage
        return done and enough


@dataclass
class _Addressee:
    """All that the workflow asks of a legacy client proxy."""

    node_id: int


class _Catcher:
    """What the workflow uses of a strategy: it names the clients and keeps what it is given."""

    def __init__(self, client_ids: Sequence[int]) -> None:
        self.mean: NDArrays | None = None
        self.survivors: tuple[int, ...] = ()
        self._client_ids = client_ids

    def configure_fit(self, *_: Any) -> Any:
        nothing = FitIns(Parameters([], ""), {})
        return [(_Addressee(client_id), nothing) for client_id in self._client_ids]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        self.mean = parameters_to_ndarrays(results[0][1].parameters)
        self.survivors = tuple(sorted(proxy.node_id for proxy, _ in results))
        return None, {}


def unmasked_mean(
    workflow: Workflow, wire: Wire, client_ids: Sequence[int], seed: int, server_round: int
) -> tuple[NDArrays, tuple[int, ...]] | None:
    """Run the protocol; return the mean of the survivors' vectors, and who they are.

    None: it halted. Neighbours are drawn from (seed, round); the masks are not, and do not show.
    """
    catcher = _Catcher(client_ids)
    state = RecordDict(
        {
            MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: server_round}),
            MAIN_PARAMS_RECORD: ArrayRecord(),
        }
    )
    context = LegacyContext(
        Context(run_id=0, node_id=0, node_config={}, state=state, run_config={}),
        strategy=cast(Strategy, catcher),
    )
    before = random.getstate()
    random.seed(derive_seed(seed, "secure aggregation neighbours", server_round))
    try:
        workflow(cast(Grid, wire), context)
    finally:
        random.setstate(before)
    return None if catcher.mean is None else (catcher.mean, catcher.survivors)
