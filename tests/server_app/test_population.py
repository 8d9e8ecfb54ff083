import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.serverapp.strategy import FedMedian, Strategy

from server_app.nodes.discovery import Client
from server_app.population import PopulationGrid
from server_app.sampling import CohortSampler
from server_app.strategies import FedAvg
from task import records
from task.config import RunConfig
from task.errors import RoundError
from tests.server_app.cohort_runs import cohort_grid
from tests.server_app.in_process_grid import (
    Fault,
    InProcessGrid,
    group_and_round,
    lost,
    make_population,
    only,
    raises,
    silent,
    tiny_config,
    with_content,
    with_parameter,
)
from tests.server_app.training import (
    assert_close,
    groups_of,
    identical,
    local_updates,
    train_federated,
    weighted_average,
)

TRAIN_GROUPS = ["Northern farmers", "Northern nurses", "Northern teachers"]  # of `tiny_config`
FAULTY = "Northern nurses"


def cohorts(grid: InProcessGrid) -> dict[int, list[str]]:
    """Round to the groups that train messages have reached, in name order."""
    reached: dict[int, list[str]] = {}
    for message in grid.messages("train"):
        group, server_round = group_and_round(message)
        reached.setdefault(server_round, []).append(group)
    return {server_round: sorted(groups) for server_round, groups in reached.items()}


def start(fault: Fault | None = None) -> tuple[InProcessGrid, PopulationGrid, list[Message]]:
    """A grid, its population, and a train message to every training client."""
    config = tiny_config()
    grid = InProcessGrid(config, fault=fault)
    population, predictor = make_population(grid, config)
    arrays = ArrayRecord(dict(predictor.named_parameters()))
    content = RecordDict({records.ARRAYS: arrays, records.CONFIG: ConfigRecord()})
    return grid, population, [Message(content, i, "train") for i in population.train_ids]


def array_bytes(message: Message) -> int:
    return sum(len(a.data) for r in message.content.array_records.values() for a in r.values())


# -- Who takes part --------------------------------------------------------------------------------


def test_strategies_see_training_clients_by_stable_ids_in_name_order() -> None:
    _, population, _ = start()
    seen = {i: population.clients[i].name for i in population.get_node_ids()}
    assert seen == {1: "Northern farmers", 2: "Northern nurses", 4: "Northern teachers"}
    assert population.clients[3].role == "held-out"


def test_held_out_groups_never_get_a_train_message() -> None:
    config = tiny_config()
    grid = InProcessGrid(config)
    train_federated(grid, config, num_rounds=2)
    assert groups_of(config, "train") == TRAIN_GROUPS
    assert cohorts(grid) == {1: TRAIN_GROUPS, 2: TRAIN_GROUPS}


def test_training_a_held_out_client_is_refused() -> None:
    grid, population, messages = start()
    with pytest.raises(ValueError, match="Northern students is held out"):
        population.push_messages([Message(messages[0].content, 3, "train")])
    assert not grid.messages("train")


def test_held_out_clients_can_be_evaluated() -> None:
    _, population, messages = start()
    exchange = population.exchange([Message(messages[0].content, 3, "evaluate")])
    assert [client.name for client in exchange.replies] == ["Northern students"]


def test_cohorts_are_drawn_without_replacement_from_seed_and_round() -> None:
    clients = [Client(i, 100 - i, f"g{i}", f"g{i}", "train") for i in range(1, 10)]
    clients[4] = Client(5, 95, "g5", "g5", "held-out")
    train_ids = [client.id for client in clients if client.role == "train"]

    def draw(seed: int) -> Iterator[tuple[int, ...]]:
        config = tiny_config(run__seed=seed, train__clients_per_round=3)
        sampler = CohortSampler(config, train_ids)
        population = PopulationGrid(
            InProcessGrid(config), clients, lambda *_: {}, seed=seed, sampler=sampler
        )
        for server_round in range(8):
            population.server_round = server_round
            yield tuple(population.get_node_ids())

    drawn = list(draw(0))
    assert drawn == list(draw(0)) != list(draw(1))
    assert len(set(drawn)) > 4
    assert set().union(*drawn) == {1, 2, 3, 4, 6, 7, 8, 9}
    for cohort in drawn:
        assert len(set(cohort)) == 3
        assert list(cohort) == sorted(cohort)


def test_only_the_cohort_of_a_round_is_trained() -> None:
    config = tiny_config(data__synthetic_groups=8, train__clients_per_round=2)
    runs = []
    for num_nodes in (2, 5):
        grid = InProcessGrid(config, num_nodes)
        train_federated(grid, config, num_rounds=5)
        runs.append(cohorts(grid))
    assert runs[0] == runs[1]
    assert [len(set(groups)) for groups in runs[0].values()] == [2] * 5
    assert len({tuple(groups) for groups in runs[0].values()}) > 1


def test_a_strangers_own_sampling_is_a_function_of_the_seed() -> None:
    def sampled(seed: int) -> dict[int, list[str]]:
        config = tiny_config(data__synthetic_groups=9, data__num_held_out_groups=1, run__seed=seed)
        grid = InProcessGrid(config)
        random.seed()  # whatever ran before
        strategy = FlowerFedAvg(fraction_train=0.5, fraction_evaluate=0.0)
        train_federated(grid, config, strategy=strategy, num_rounds=4)
        return cohorts(grid)

    first = sampled(0)
    assert [len(groups) for groups in first.values()] == [4] * 4
    assert len({tuple(groups) for groups in first.values()}) > 1
    assert first == sampled(0) != sampled(1)


def test_a_stranger_may_have_flower_evaluate_the_training_clients() -> None:
    config = tiny_config()
    grid = InProcessGrid(config)
    train_federated(grid, config, strategy=FlowerFedAvg())
    evaluated = sorted(group_and_round(message)[0] for message in grid.messages("evaluate"))
    assert evaluated == TRAIN_GROUPS


# -- Nodes do not matter ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [2, 3, 7])
def test_the_number_of_nodes_does_not_change_the_parameters(num_nodes: int) -> None:
    config = tiny_config()
    one, _ = train_federated(InProcessGrid(config, 1), config, num_rounds=2)
    several, _ = train_federated(InProcessGrid(config, num_nodes), config, num_rounds=2)
    assert identical(one, several)


# -- The Grid contract -----------------------------------------------------------------------------


def test_push_returns_one_message_id_each_and_pull_each_reply_once() -> None:
    _, population, messages = start()
    ids = list(population.push_messages(messages))
    assert len(set(ids)) == len(messages) == 3
    replies: list[Message] = []
    while batch := list(population.pull_messages(ids)):
        replies += batch
    answered = {r.metadata.reply_to_message_id: r.metadata.src_node_id for r in replies}
    assert len(replies) == 3
    assert answered == dict(zip(ids, population.train_ids, strict=True))
    assert all(records.ARRAYS in reply.content for reply in replies)


def test_an_invalid_reply_is_pulled_as_an_error_of_its_client() -> None:
    fault = only(with_parameter(lambda a: a * np.nan), message_type="train", group=FAULTY)
    _, population, messages = start(fault)
    ids = list(population.push_messages(messages))
    replies: list[Message] = []
    while batch := list(population.pull_messages(ids)):
        replies += batch
    errors = {r.metadata.src_node_id: r.error.reason for r in replies if r.has_error()}
    assert list(errors) == [2]
    assert "is not finite" in errors[2]


def test_replies_are_returned_in_the_order_of_client_ids() -> None:
    for _ in range(4):  # the grid shuffles
        _, population, messages = start()
        replies = population.send_and_receive(reversed(messages), timeout=60)
        assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 4]


def test_train_messages_count_rounds_and_carry_group_round_and_learning_rates() -> None:
    grid, population, messages = start()
    population.send_and_receive(messages)
    population.send_and_receive([Message(messages[0].content, 1, "evaluate")])
    population.send_and_receive(messages)
    assert population.server_round == 2
    assert cohorts(grid) == {1: TRAIN_GROUPS, 2: TRAIN_GROUPS}
    rates = {
        group_and_round(m)[1]: m.content.config_records["briefing"]["learning-rates"]
        for m in grid.messages("train")
    }
    # cosine from 0.002 over 2 rounds of 2 steps
    assert rates[1] == pytest.approx([0.002, 0.001 * (1 + np.sqrt(0.5))])
    assert rates[2] == pytest.approx([0.001, 0.001 * (1 - np.sqrt(0.5))])


def test_a_strategys_message_is_not_changed() -> None:
    _, population, messages = start()
    population.send_and_receive(messages)
    assert set(messages[0].content) == {records.ARRAYS, records.CONFIG}
    assert messages[0].metadata.dst_node_id == 1


def test_bytes_are_those_of_all_arrays_that_crossed_the_wire() -> None:
    sent_back: list[Message] = []

    def listen(message: Message, answer: Callable[[Message], Message]) -> Message:
        reply = answer(message)
        sent_back.append(reply)
        return reply

    grid, population, messages = start(only(listen, message_type="train"))
    exchange = population.exchange(messages)
    assert exchange.bytes_up == sum(array_bytes(reply) for reply in sent_back) > 0
    assert exchange.bytes_down == sum(array_bytes(m) for m in grid.messages("train"))


def test_nothing_is_sent_for_no_messages() -> None:
    grid, population, _ = start()
    asked = len(grid.received)
    assert list(population.send_and_receive([])) == []
    assert (len(grid.received), population.server_round) == (asked, 0)


# -- Faults ----------------------------------------------------------------------------------------


def metrics_of(content: RecordDict) -> MetricRecord:
    return content.metric_records[records.METRICS]


def arrays_of(content: RecordDict) -> ArrayRecord:
    return content.array_records[records.ARRAYS]


def garble(content: RecordDict) -> None:
    name, array = next(iter(arrays_of(content).items()))
    arrays_of(content)[name] = Array(array.dtype, array.shape, array.stype, b"garbage")


def set_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values.flat[0] = value
        return values

    return change


FAULTS: dict[str, tuple[Fault, str]] = {
    "raising": (raises, "KeyError: 'Nobody'"),
    "NaN": (with_parameter(set_first(np.nan)), "embedder.0.weight is not finite"),
    "infinite": (with_parameter(set_first(-np.inf)), "embedder.0.weight is not finite"),
    "wrong shape": (with_parameter(lambda a: a.T), "has shape (17, 16), expected (16, 17)"),
    "scalar": (with_parameter(lambda a: np.array(a.sum())), "has shape (), expected (16, 17)"),
    "text": (with_parameter(lambda a: a.astype(str)), "embedder.0.weight"),
    "garbled": (with_content(garble), "embedder.0.weight"),
    "missing parameter": (
        with_content(lambda c: arrays_of(c).pop("embedder.0.weight")),
        "do not carry the names",
    ),
    "added parameter": (
        with_content(lambda c: arrays_of(c).update(extra=Array(np.zeros(1)))),
        "do not carry the names",
    ),
    "no parameters": (with_content(lambda c: c.pop(records.ARRAYS)), "its arrays are in []"),
    "two array records": (with_content(lambda c: c.update(more=ArrayRecord())), ""),
    "loss NaN": (with_content(lambda c: metrics_of(c).update(loss=np.nan)), "loss = nan"),
    "no metrics": (with_content(lambda c: c.pop(records.METRICS)), ""),
    "no loss": (with_content(lambda c: metrics_of(c).pop(records.LOSS)), ""),
    "no weight": (with_content(lambda c: metrics_of(c).pop(records.NUM_EXAMPLES)), "num-examples"),
    "weight 0": (
        with_content(lambda c: metrics_of(c).update({records.NUM_EXAMPLES: 0})),
        "num-examples",
    ),
    "negative weight": (
        with_content(lambda c: metrics_of(c).update({records.NUM_EXAMPLES: -5})),
        "num-examples",
    ),
    "silent": (silent, "no reply within"),
    "lost": (lost, "Node unavailable"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_client_is_named_and_the_others_are_averaged(name: str) -> None:
    fault, reason = FAULTS[name]
    config = tiny_config()
    grid = InProcessGrid(config, fault=only(fault, message_type="train", group=FAULTY))
    parameters, population = train_federated(grid, config, timeout=0.5)
    others = [group for group in TRAIN_GROUPS if group != FAULTY]
    train = population.last_train
    assert train.sent == 3
    assert [client.name for client in train.replies] == others
    assert list(train.failures) == [FAULTY]
    assert reason in train.failures[FAULTY]
    updates = local_updates(config, others)
    weights = [update.num_examples for update in updates]
    assert_close(parameters, weighted_average(updates, weights))


def test_a_faulty_client_takes_part_again_in_the_next_round() -> None:
    config = tiny_config()
    fault = only(raises, message_type="train", group=FAULTY, server_round=1)
    grid = InProcessGrid(config, fault=fault)
    _, population = train_federated(grid, config, num_rounds=2)
    assert [client.name for client in population.last_train.replies] == TRAIN_GROUPS
    assert population.last_train.failures == {}


def test_too_few_valid_replies_stop_the_run_naming_clients_and_reasons() -> None:
    def fault(message: Message, answer: Callable[[Message], Message]) -> Message | None:
        group, _ = group_and_round(message)
        return {"Northern nurses": raises, "Northern teachers": lost}.get(
            group, lambda message, answer: answer(message)
        )(message, answer)

    config = tiny_config()
    grid = InProcessGrid(config, fault=only(fault, message_type="train"))
    with pytest.raises(RoundError) as caught:
        train_federated(grid, config)
    text = str(caught.value)
    assert text.startswith("Round 1: 1 of 3 clients sent a valid reply, expected at least 50%")
    assert "Northern nurses: KeyError: 'Nobody'" in text
    assert "Northern teachers: Node unavailable" in text
    assert "Northern farmers" not in text


@pytest.mark.parametrize(("fraction", "stops"), [(0.66, False), (0.67, True)])
def test_the_smallest_share_of_valid_replies_is_configurable(fraction: float, stops: bool) -> None:
    config = tiny_config(train__min_valid_fraction=fraction)
    grid = InProcessGrid(config, fault=only(raises, message_type="train", group=FAULTY))
    if stops:
        with pytest.raises(RoundError, match="expected at least 67%"):
            train_federated(grid, config)
    else:
        train_federated(grid, config)
        assert cohorts(grid) == {1: TRAIN_GROUPS}


def test_no_valid_reply_at_all_always_stops_the_run() -> None:
    config = tiny_config(train__min_valid_fraction=0.001)
    grid = InProcessGrid(config, fault=only(raises, message_type="train"))
    with pytest.raises(RoundError, match="0 of 3"):
        train_federated(grid, config)


def test_a_late_reply_is_ignored() -> None:
    late: list[Message] = []

    def keep(message: Message, answer: Callable[[Message], Message]) -> None:
        late.append(answer(message))

    def run(deliver: bool) -> tuple[Any, PopulationGrid]:
        config = tiny_config()
        grid = InProcessGrid(
            config, fault=only(keep, message_type="train", group=FAULTY, server_round=1)
        )

        def after_round(server_round: int, arrays: ArrayRecord) -> None:
            if server_round == 1 and deliver:
                grid.overdue.append(late[-1])

        return train_federated(grid, config, num_rounds=2, timeout=0.5, after_round=after_round)

    without, _ = run(deliver=False)
    with_late, population = run(deliver=True)
    assert len(late) == 2
    assert [client.name for client in population.last_train.replies] == TRAIN_GROUPS
    assert identical(with_late, without)


def test_a_message_that_the_runtime_refuses_stops_the_run() -> None:
    class Refusing(InProcessGrid):
        def push_messages(self, messages: Any) -> list[str]:
            batch = list(messages)
            return [] if batch[0].metadata.message_type == "train" else super().push_messages(batch)

    config = tiny_config()
    with pytest.raises(RoundError, match="Northern nurses: the runtime did not accept"):
        train_federated(Refusing(config), config)


@pytest.mark.parametrize("says_none", [True, False], ids=["None in place", "left out"])
def test_a_message_that_is_not_accepted_costs_that_client_alone(says_none: bool) -> None:
    """Flower's HTTP grid returns None in place of an id, its simulation leaves the id out."""

    class Refusing(InProcessGrid):
        def push_messages(self, messages: Any) -> list[Any]:
            ids = []
            for message in messages:
                briefing = message.content.config_records.get(records.BRIEFING, {})
                if briefing.get(records.GROUP) == "Northern nurses":
                    ids += [None] if says_none else []
                else:
                    (message_id,) = super().push_messages([message])
                    message.metadata.__dict__["_message_id"] = message_id
                    ids.append(message_id)
            return ids

    config = tiny_config()
    grid = Refusing(config)
    train_federated(grid, config)
    trained = {group_and_round(message)[0] for message in grid.messages("train")}
    assert trained == set(TRAIN_GROUPS) - {"Northern nurses"}


# -- Clipping --------------------------------------------------------------------------------------


def flat(arrays: Any) -> np.ndarray:
    return np.concatenate([np.ravel(array.numpy()) for array in arrays.values()]).astype(float)


def norms_seen(config: RunConfig, grid: Any, strategy: type[Strategy]) -> list[float]:
    """Norms of the updates that a strategy sees over two rounds."""
    start: list[np.ndarray] = []
    norms: list[float] = []

    class Spy(strategy):
        def configure_train(self, server_round: int, arrays: ArrayRecord, *args: Any) -> Any:
            start[:] = [flat(arrays)]
            return super().configure_train(server_round, arrays, *args)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            answered = list(replies)
            for reply in answered:
                returned = flat(reply.content.array_records[records.ARRAYS])
                norms.append(float(np.linalg.norm(returned - start[0])))
            return super().aggregate_train(server_round, answered)

    train_federated(grid, config, strategy=Spy(fraction_evaluate=0.0), num_rounds=2)
    return norms


@pytest.mark.parametrize("runtime", [InProcessGrid, cohort_grid])
@pytest.mark.parametrize("strategy", [FedMedian, FedAvg])
@pytest.mark.parametrize("compression", ["none", "int8"])
def test_no_strategy_sees_an_update_above_the_clipping_norm(
    runtime: Any, strategy: type[Strategy], compression: str
) -> None:
    changes = {"compression__name": compression, "engine__num_threads": 1}
    plain = tiny_config(**changes)
    clipped = tiny_config(strategy__clipping_norm=0.02, **changes)

    def seen(config: RunConfig) -> list[float]:
        made = runtime(config)
        with made if runtime is cohort_grid else nullcontext(made) as grid:
            return norms_seen(config, grid, strategy)

    assert len(seen(clipped)) == 6  # three clients, two rounds
    assert min(seen(plain)) > 0.03
    assert max(seen(clipped)) <= 0.02 + 1e-6


def test_clipping_scales_each_update_and_averages_what_is_left() -> None:
    norm = 0.05
    config = tiny_config(strategy__clipping_norm=norm)
    parameters, _ = train_federated(InProcessGrid(config), config)
    _, predictor = make_population(InProcessGrid(config), config)
    start = {name: p.detach().numpy() for name, p in predictor.named_parameters()}
    clipped = []
    for update in local_updates(config, TRAIN_GROUPS):
        steps = {name: update.parameters[name].numpy() - start[name] for name in start}
        length = np.sqrt(sum(np.square(step).sum() for step in steps.values()))
        assert length > norm
        clipped.append({name: step * norm / length for name, step in steps.items()})
    for name, values in parameters.items():
        expected = start[name] + sum(step[name] for step in clipped) / 3
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6, err_msg=name)


def test_a_client_that_sends_a_huge_update_moves_the_average_by_the_norm_at_most() -> None:
    config = tiny_config(strategy__clipping_norm=0.05)
    fault = only(with_parameter(lambda a: a + 1e6), message_type="train", group=FAULTY)
    attacked, population = train_federated(InProcessGrid(config, fault=fault), config)
    honest, _ = train_federated(InProcessGrid(config), config)
    assert population.last_train.failures == {}
    moved = np.sqrt(sum(np.square(attacked[name] - honest[name]).sum() for name in honest))
    assert 0 < moved <= 2 * 0.05 / 3 + 1e-6


# -- Compression -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least", "most"), [("bfloat16", 1.8, 2.05), ("int8", 3.0, 4.0), ("top-k", 4.5, 9.0)]
)
def test_compressed_updates_cost_what_crosses_the_wire(
    name: str, least: float, most: float
) -> None:
    sent_back: list[Message] = []

    def listen(message: Message, answer: Callable[[Message], Message]) -> Message:
        sent_back.append(answer(message))
        return sent_back[-1]

    size: dict[str, int] = {}
    width = {"predictor__width": 64, "predictor__feedforward_width": 64}
    for compression in ("none", name):
        sent_back.clear()
        config = tiny_config(compression__name=compression, **width)
        grid = InProcessGrid(config, fault=only(listen, message_type="train"))
        _, population = train_federated(grid, config)
        size[compression] = population.last_train.bytes_up
        assert size[compression] == sum(array_bytes(reply) for reply in sent_back)
    assert least < size["none"] / size[name] < most


def spoil(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def changed(content: RecordDict) -> None:
        arrays = content.array_records[records.UPDATE]
        arrays[key] = Array(change(arrays[key].numpy().copy()))

    return with_content(changed)


def both(content: RecordDict) -> None:
    content[records.ARRAYS] = ArrayRecord({"w": Array(np.zeros(3))})


MALFORMED: dict[str, tuple[str, Fault, str]] = {
    "bfloat16 of another type": (
        "bfloat16",
        spoil("bfloat16", lambda a: a.astype(np.float32)),
        "array 'bfloat16' of a compressed update is float32",
    ),
    "bfloat16 NaN": ("bfloat16", spoil("bfloat16", lambda a: a * 0 + 0x7FC0), "is not finite"),
    "bfloat16 infinite": ("bfloat16", spoil("bfloat16", set_first(0x7F80)), "is not finite"),
    "too short": ("bfloat16", spoil("bfloat16", lambda a: a[:-1]), "expected uint16"),
    "too long": ("int8", spoil("int8", lambda a: np.append(a, a[:1])), "expected int8"),
    "a matrix": ("int8", spoil("int8", lambda a: a[None]), "expected int8"),
    "unsigned": ("int8", spoil("int8", lambda a: a.astype(np.uint8)), "is uint8"),
    "NaN scale": ("int8", spoil("scale", set_first(np.nan)), "is not finite"),
    "infinite scale": ("int8", spoil("scale", set_first(np.inf)), "is not finite"),
    "double scale": ("int8", spoil("scale", lambda a: a.astype(float)), "is float64"),
    "few scales": ("int8", spoil("scale", lambda a: a[1:]), "expected float32"),
    "text": ("int8", spoil("int8", lambda a: a.astype(str)), "array 'int8'"),
    "few values": ("top-k", spoil("values", lambda a: a[1:]), "another number of values"),
    "no values": ("top-k", spoil("values", lambda a: a[:0]), "another number of values"),
    "many places": ("top-k", spoil("where", lambda a: a | 255), "another number of values"),
    "few places": ("top-k", spoil("where", lambda a: a[1:]), "expected uint8"),
    "value NaN": ("top-k", spoil("values", set_first(np.nan)), "is not finite"),
    "unknown names": (
        "int8",
        with_content(lambda c: c.array_records[records.UPDATE].update(more=Array(np.zeros(1)))),
        "are no compressed update",
    ),
    "an array less": (
        "int8",
        with_content(lambda c: c.array_records[records.UPDATE].pop("scale")),
        "are no compressed update",
    ),
    "empty": (
        "int8",
        with_content(lambda c: c.update(update=ArrayRecord())),
        "are no compressed update",
    ),
    "parameters too": ("int8", with_content(both), "its arrays are in ['arrays', 'update']"),
    "no arrays": ("int8", with_content(lambda c: c.pop(records.UPDATE)), "its arrays are in []"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_compressed_update_is_named_and_the_others_are_aggregated(name: str) -> None:
    compression, fault, reason = MALFORMED[name]
    config = tiny_config(compression__name=compression)
    grid = InProcessGrid(config, fault=only(fault, message_type="train", group=FAULTY))
    parameters, population = train_federated(grid, config)
    assert list(population.last_train.failures) == [FAULTY]
    assert reason in population.last_train.failures[FAULTY]
    assert len(population.last_train.replies) == 2
    lost_reply = InProcessGrid(config, fault=only(lost, message_type="train", group=FAULTY))
    assert identical(parameters, train_federated(lost_reply, config)[0])


def npy(header: str) -> bytes:
    """A file of NumPy's format 1.0 without data."""
    padded = header.encode() + b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def archive() -> bytes:
    buffer = BytesIO()
    np.savez(buffer, w=np.ones(3))
    return buffer.getvalue()


UNREADABLE = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\x80\x04K\x01.", id="pickle"),
    pytest.param(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-5,), }"), id="negative"),
    pytest.param(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"), id="no data"),
    pytest.param(b"PK\x03\x04 no archive", id="broken archive"),
    pytest.param(archive(), id="archive"),
    pytest.param(npy("{'descr': '<f4', 'shape': (16, "), id="open bracket"),
    pytest.param(
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"),
        id="petabytes",
    ),
]


@pytest.mark.parametrize("data", UNREADABLE)
@pytest.mark.parametrize("compression", ["none", "int8"])
def test_bytes_that_are_no_array_are_named_whatever_they_are(compression: str, data: bytes) -> None:
    def replaced(content: RecordDict) -> None:
        (record,) = content.array_records.values()
        name, array = next(iter(record.items()))
        record[name] = Array(array.dtype, array.shape, array.stype, data)

    config = tiny_config(compression__name=compression)
    fault = only(with_content(replaced), message_type="train", group=FAULTY)
    _, population = train_federated(InProcessGrid(config, fault=fault), config)
    assert list(population.last_train.failures) == [FAULTY]


@pytest.mark.parametrize("compression", ["none", "int8"])
def test_an_array_of_another_library_is_named(compression: str) -> None:
    def replaced(content: RecordDict) -> None:
        (record,) = content.array_records.values()
        name, array = next(iter(record.items()))
        record[name] = Array(array.dtype, array.shape, "another.library", array.data)

    config = tiny_config(compression__name=compression)
    fault = only(with_content(replaced), message_type="train", group=FAULTY)
    _, population = train_federated(InProcessGrid(config, fault=fault), config)
    assert list(population.last_train.failures) == [FAULTY]
