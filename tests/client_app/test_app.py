from collections.abc import Mapping

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from task import records
from task.config import RunConfig
from task.evaluation import evaluate_group
from task.features import feature_sums, load_features, load_group
from task.predictor import PreferencePredictor
from task.training import train_client
from tests.server_app.in_process_grid import InProcessGrid, tiny_config

GROUP = "Northern nurses"
HELD_OUT = "Northern students"


def ask(
    config: RunConfig, message_type: str, content: Mapping[str, object], num_nodes: int = 1
) -> RecordDict:
    """Send one message to the first node; return the content of its reply."""
    grid = InProcessGrid(config, num_nodes)
    message = Message(RecordDict(dict(content)), next(iter(grid.contexts)), message_type)
    (reply,) = grid.send_and_receive([message])
    assert not reply.has_error(), reply.error
    return reply.content


def statistics(config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Feature statistics that no client could come to by itself."""
    dimension = config.encoder.dimension
    mean = np.linspace(-0.1, 0.1, dimension).astype(np.float32)
    return mean, np.linspace(0.5, 2, dimension).astype(np.float32)


def predictor_of(config: RunConfig) -> PreferencePredictor:
    torch.manual_seed(3)
    predictor = PreferencePredictor.of(config.predictor, config.encoder.dimension)
    mean, std = statistics(config)
    predictor.feature_mean.copy_(torch.from_numpy(mean))
    predictor.feature_std.copy_(torch.from_numpy(std))
    return predictor


def content_for(config: RunConfig, group: str, predictor: PreferencePredictor) -> dict:
    mean, std = statistics(config)
    return {
        records.ARRAYS: ArrayRecord(dict(predictor.named_parameters())),
        records.CONFIG: ConfigRecord(),
        records.BRIEFING: ConfigRecord(
            {records.GROUP: group, records.ROUND: 3, records.LEARNING_RATES: [0.01, 0.02, 0.005]}
        ),
        records.FEATURE_STATISTICS: ArrayRecord({"mean": Array(mean), "std": Array(std)}),
    }


def test_describe_lists_the_groups_dealt_to_the_node() -> None:
    config = tiny_config()
    content = ask(config, records.DESCRIBE, {}, num_nodes=3)
    holdings = content.config_records["holdings"]
    # four groups to three nodes: the first gets the first and the fourth
    assert holdings["groups"] == ["Northern farmers", "Northern teachers"]
    assert holdings["roles"] == ["train", "train"]
    assert holdings["encoder-fingerprint"] == "hashing-16"
    assert holdings["num-partitions"] == 3


def test_describe_sums_features_of_training_groups_only() -> None:
    config = tiny_config(data__train_groups=GROUP, data__held_out_groups=HELD_OUT)
    arrays = ask(config, records.DESCRIBE, {}).array_records["feature-sums"]
    expected = feature_sums(load_group(config, GROUP))
    assert arrays["count"].numpy().tolist() == [expected.count]
    assert expected.count > 0
    np.testing.assert_allclose(arrays["total"].numpy(), [expected.total])
    np.testing.assert_allclose(arrays["squares"].numpy(), [expected.squares])


def test_a_node_without_groups_describes_itself_as_empty() -> None:
    config = tiny_config()
    grid = InProcessGrid(config, 5)
    (reply,) = grid.send_and_receive(
        [Message(RecordDict(), list(grid.contexts)[4], records.DESCRIBE)]
    )
    assert reply.content.config_records["holdings"]["groups"] == []
    assert not reply.content.array_records["feature-sums"]["total"].numpy().any()


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_train_returns_what_local_training_gives(mu: float) -> None:
    config = tiny_config()
    predictor = predictor_of(config)
    content = content_for(config, GROUP, predictor)
    if mu:
        content[records.CONFIG] = ConfigRecord({records.PROXIMAL_MU: mu})
    start = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    expected = train_client(
        predictor,
        start,
        load_group(config, GROUP),
        config.train,
        learning_rates=[0.01, 0.02, 0.005],
        seed=config.run.seed,
        server_round=3,
        proximal_mu=mu,
    )
    reply = ask(config, "train", content)
    assert set(reply) == {records.ARRAYS, records.METRICS}
    returned = reply.array_records[records.ARRAYS].to_torch_state_dict()
    assert set(returned) == set(start)
    for name, parameter in expected.parameters.items():
        assert torch.equal(returned[name], parameter), name
        moved = not torch.equal(returned[name], start[name])
        assert moved != name.startswith("log_std."), name  # the categorical loss has no use for it
    assert dict(reply.metric_records[records.METRICS]) == {
        "num-examples": 22,
        "loss": expected.loss,
    }


def test_training_leaves_nothing_behind_in_the_process() -> None:
    config = tiny_config()
    content = content_for(config, GROUP, predictor_of(config))
    other = content_for(config, "Northern farmers", predictor_of(config))
    other[records.FEATURE_STATISTICS] = ArrayRecord(
        {"mean": Array(np.ones(16, np.float32)), "std": Array(np.ones(16, np.float32))}
    )
    first = ask(config, "train", content)
    ask(config, "train", other)
    again = ask(config, "train", content)
    for name, array in first.array_records[records.ARRAYS].items():
        assert array.data == again.array_records[records.ARRAYS][name].data, name


def test_train_uses_the_feature_statistics_of_the_message() -> None:
    config = tiny_config()
    content = content_for(config, GROUP, predictor_of(config))
    first = ask(config, "train", content)
    content[records.FEATURE_STATISTICS] = ArrayRecord(
        {"mean": Array(np.zeros(16, np.float32)), "std": Array(np.ones(16, np.float32))}
    )
    second = ask(config, "train", content)
    loss = records.LOSS
    assert first.metric_records["metrics"][loss] != second.metric_records["metrics"][loss]


@pytest.mark.parametrize("group", [GROUP, HELD_OUT])
def test_evaluate_returns_sums_of_scores_and_nothing_else(group: str) -> None:
    config = tiny_config(evaluation__num_draws=2)
    predictor = predictor_of(config)
    data = load_group(config, group)
    seen = data.question_keys[::2]
    content = content_for(config, group, predictor)
    content[records.SEEN_QUESTIONS] = ArrayRecord({records.QUESTION_KEYS: Array(seen)})
    reply = ask(config, "evaluate", content)
    expected = evaluate_group(predictor, data, config.evaluation, config.run.seed, seen)
    assert set(reply) == {records.METRICS}
    assert dict(reply.metric_records[records.METRICS]) == {
        "num-examples": int(expected.all.weight),
        "alignment-score": [expected.all.total, expected.all.weight],
        "alignment-score-seen": [expected.seen.total, expected.seen.weight],
        "alignment-score-new": [expected.new.total, expected.new.weight],
        "top-option": [expected.top_option.total, expected.top_option.weight],
        "calibration": [
            *expected.calibration.disclosed.options,
            *expected.calibration.disclosed.predicted,
            *expected.calibration.disclosed.true,
        ],
    }
    # two draws: 2 held-back questions of 24 (train), or all but 5 of context (held-out)
    assert expected.all.weight == {GROUP: 2 * 2, HELD_OUT: 2 * 19}[group]


def test_evaluation_does_not_train() -> None:
    config = tiny_config()
    predictor = predictor_of(config)
    content = content_for(config, HELD_OUT, predictor)
    keys = Array(load_group(config, GROUP).question_keys)
    content[records.SEEN_QUESTIONS] = ArrayRecord({records.QUESTION_KEYS: keys})
    first = ask(config, "evaluate", content)
    ask(config, "train", content_for(config, GROUP, predictor))
    assert ask(config, "evaluate", content) == first


def test_clients_share_the_cached_features_with_the_server() -> None:
    config = tiny_config()
    features = load_features(config.data, config.encoder, config.run.seed)
    assert load_group(config, GROUP).features is features
