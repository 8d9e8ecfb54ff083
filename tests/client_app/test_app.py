from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from task import records
from task.config import RunConfig
from task.evaluation import evaluate_group
from task.features import feature_sums, load_features, load_group
from task.personal import Personal, PersonalStore
from task.predictor import PreferencePredictor
from task.reports import make_reports
from task.training import train_client
from tests.server_app.in_process_grid import RUN_KEY, InProcessGrid, tiny_config

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
            {
                records.GROUP: group,
                records.ROUND: 3,
                records.RUN_KEY: RUN_KEY,
                records.LEARNING_RATES: [0.01, 0.02, 0.005],
            }
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


# -- Reports and personal parameters ---------------------------------------------------------------


def asked(config: RunConfig, group: str = GROUP, **settings: Any) -> dict[str, Any]:
    """A message's content with a strategy's settings, written `personal_mu=0.5`."""
    dashed = {key.replace("_", "-"): value for key, value in settings.items()}
    content = content_for(config, group, predictor_of(config))
    return content | {records.CONFIG: ConfigRecord(dashed)}


def to_evaluate(config: RunConfig, group: str = GROUP, **settings: Any) -> dict[str, Any]:
    seen = Array(load_group(config, GROUP).question_keys)
    keys = ArrayRecord({records.QUESTION_KEYS: seen})
    return asked(config, group, **settings) | {records.SEEN_QUESTIONS: keys}


def test_reports_are_of_the_parameters_that_were_sent_and_change_no_training() -> None:
    config = tiny_config()
    names = [records.LOSS_BEFORE, records.SCORE_BEFORE]
    expected = make_reports(predictor_of(config), load_group(config, GROUP), config, names)
    ask(config, "train", content_for(config, "Northern farmers", predictor_of(config)))
    plain = ask(config, "train", asked(config))
    reply = ask(config, "train", asked(config, reports=names))
    metrics = dict(reply.metric_records[records.METRICS])
    assert [metrics.pop(name) for name in names] == [list(astuple(expected[n])) for n in names]
    assert metrics == dict(plain.metric_records[records.METRICS])
    assert reply.array_records == plain.array_records


def test_only_the_reports_that_are_asked_for_are_sent() -> None:
    config = tiny_config()
    for names in ([], [records.LOSS_BEFORE], [records.SCORE_BEFORE]):
        reply = ask(config, "train", asked(config, reports=names))
        extra = set(reply.metric_records[records.METRICS]) - {"num-examples", "loss"}
        assert extra == set(names)


def test_a_report_that_does_not_exist_is_an_error() -> None:
    config = tiny_config()
    with pytest.raises(AssertionError, match="report 'los': expected one of"):
        ask(config, "train", asked(config, reports=["los"]))


def test_a_group_keeps_its_own_parameters_and_says_nothing_of_them(tmp_path: Path) -> None:
    config = tiny_config(run__directory=str(tmp_path))
    plain = ask(config, "train", asked(config))
    assert not (tmp_path / "clients").exists()
    reply = ask(config, "train", asked(config, personal="ditto", personal_mu=0.5))
    assert reply == plain
    predictor = predictor_of(config)
    start = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    own = train_client(
        predictor, start, load_group(config, GROUP), config.train,
        learning_rates=[0.01, 0.02, 0.005], seed=config.run.seed, server_round=3, proximal_mu=0.5,
    ).parameters  # fmt: skip
    (file,) = (tmp_path / "clients").iterdir()
    kept = PersonalStore(tmp_path / "clients").load(GROUP)
    assert file == PersonalStore(tmp_path / "clients").file(GROUP)
    assert kept.server_round == 3
    for name, value in own.items():
        assert torch.equal(kept.parameters[name], value), name


def test_another_way_to_be_personal_is_an_error(tmp_path: Path) -> None:
    config = tiny_config(run__directory=str(tmp_path))
    with pytest.raises(AssertionError, match="personal = 'apfl'"):
        ask(config, "train", asked(config, personal="apfl", personal_mu=0.5))


def test_own_parameters_are_scored_when_that_is_asked_and_there_are_some(tmp_path: Path) -> None:
    config = tiny_config(run__directory=str(tmp_path), evaluation__num_draws=2)
    plain = ask(config, "evaluate", to_evaluate(config))
    assert ask(config, "evaluate", to_evaluate(config, personal="ditto")) == plain
    torch.manual_seed(8)
    other = PreferencePredictor.of(config.predictor, config.encoder.dimension)
    own = {name: p.detach().clone() for name, p in other.named_parameters()}
    PersonalStore(tmp_path / "clients").save(GROUP, Personal(own, None, 1))
    assert ask(config, "evaluate", to_evaluate(config)) == plain
    reply = ask(config, "evaluate", to_evaluate(config, personal="ditto"))
    metrics = dict(reply.metric_records[records.METRICS])
    scored = predictor_of(config)  # with the message's feature statistics
    scored.set_parameters(own)
    data = load_group(config, GROUP)
    expected = evaluate_group(
        scored, data, config.evaluation, config.run.seed, data.question_keys
    ).all
    assert metrics.pop(records.PERSONAL_SCORE) == [expected.total, expected.weight]
    assert metrics == dict(plain.metric_records[records.METRICS])
    assert metrics[records.SCORES_ALL] != [expected.total, expected.weight]


def test_a_damaged_file_of_own_parameters_is_named_in_the_reply(tmp_path: Path) -> None:
    config = tiny_config(run__directory=str(tmp_path))
    content = asked(config, personal="mr-mtl", personal_mu=0.5)
    ask(config, "train", content)
    file = PersonalStore(tmp_path / "clients").file(GROUP)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(AssertionError, match=r"clients/northern-nurses-.*remove it"):
        ask(config, "train", content)
