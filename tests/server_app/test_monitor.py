"""The best predictor, and when there is an evaluation, with scores that the test chooses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from server_app.monitor import RoundMonitor
from server_app.nodes.discovery import discover_clients
from server_app.privacy import RunPrivacy
from server_app.run_directory import RunDirectory
from server_app.sinks import JsonLines
from server_app.strategies.ditto import Ditto
from task import records
from task.baselines import score_baselines
from task.config import RunConfig
from task.errors import RoundError
from task.features import load_group, load_roles
from task.predictor import PreferencePredictor
from task.saved_predictor import load_predictor
from tests.server_app.in_process_grid import (
    Fault,
    InProcessGrid,
    group_and_round,
    make_population,
    only,
    raises,
    tiny_config,
    with_content,
)

HELD_OUT = "Northern students"
FAULTY = "Northern nurses"


class Run:
    """A monitor on a population, without a strategy: the test hands over the parameters."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        fault: Fault | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.grid = InProcessGrid(config, fault=fault)
        self.population, self.predictor = make_population(self.grid, config)
        self.directory = RunDirectory.create(folder, config)
        self.sink = JsonLines(folder / "metrics.jsonl")
        roles = load_roles(config.data, config.evaluation, config.run.seed)
        self.monitor = RoundMonitor(
            self.population,
            self.predictor,
            config,
            roles,
            score_baselines(config),
            self.directory,
            [self.sink],
            strategy or FedAvg(),
            RunPrivacy(config, discover_clients(self.grid, timeout=60), self.directory),
        )

    def observe(self, server_round: int, value: float | None = None) -> Any:
        """Call the monitor; all parameters are `value`, or as they are."""
        parameters = {n: p.detach().clone() for n, p in self.predictor.named_parameters()}
        if value is not None:
            parameters = {name: torch.full_like(p, value) for name, p in parameters.items()}
        self.population.server_round = server_round
        return self.monitor(server_round, ArrayRecord(parameters))

    def lines(self) -> list[dict[str, Any]]:
        text = (self.directory.path / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def scripted(train: list[float], held_out: list[float]) -> Fault:
    """Clients whose mean score in a round is given; the real ones answer, their sums change."""

    def fault(message: Message, answer: Callable[[Message], Message]) -> Message:
        group, server_round = group_and_round(message)
        score = (held_out if group == HELD_OUT else train)[server_round]

        def set_scores(content: RecordDict) -> None:
            metrics = content.metric_records[records.METRICS]
            for key in (records.SCORES_ALL, records.SCORES_SEEN, records.SCORES_NEW):
                weight = metrics[key][1]
                metrics[key] = [score * weight, weight]

        return with_content(set_scores)(message, answer)

    return only(fault, message_type="evaluate")


def value_of(predictor: PreferencePredictor) -> float:
    return next(predictor.parameters()).detach().flatten()[0].item()


def test_the_best_predictor_is_chosen_by_training_groups_never_by_held_out_ones(
    tmp_path: Path,
) -> None:
    train, held_out = [0.50, 0.75, 0.70, 0.75], [0.90, 0.10, 0.95, 0.99]
    run = Run(tmp_path, tiny_config(train__num_rounds=3), scripted(train, held_out))
    for server_round in range(4):
        run.observe(server_round, value=server_round / 8)
    run.monitor.finish()
    assert value_of(load_predictor(tmp_path, "best")) == 1 / 8  # the first of two equal ones
    assert value_of(load_predictor(tmp_path, "final")) == 3 / 8
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["round"], summary["best_round"]) == (3, 1)
    assert summary["held_out"]["model"]["alignment_score"] == pytest.approx(0.99)
    assert summary["train"]["model"]["alignment_score"] == pytest.approx(0.75)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5])])
def test_every_kth_round_and_the_last_are_evaluated(
    tmp_path: Path, every: int, expected: list[int]
) -> None:
    config = tiny_config(train__num_rounds=5, evaluation__every=every)
    run = Run(tmp_path, config)
    returned = {server_round: run.observe(server_round) for server_round in range(6)}
    assert [line["round"] for line in run.lines()] == [0, 1, 2, 3, 4, 5]
    assert [line["round"] for line in run.lines() if "held_out" in line] == expected
    assert [r for r, metrics in returned.items() if metrics is not None] == expected
    assert len(run.grid.messages("evaluate")) == 4 * len(expected)


def test_the_monitor_returns_flower_the_mean_score_per_role(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config(), scripted([0.5], [0.25]))
    assert dict(run.observe(0)) == pytest.approx({"held_out": 0.25, "train": 0.5})


def test_scores_are_those_of_the_parameters_that_are_handed_over(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config())
    run.observe(0)
    run.observe(1, value=0.0)  # no parameters, no opinion: every option is as likely
    first, second = run.lines()
    baselines = score_baselines(tiny_config())["uniform"]
    assert second["groups"] == pytest.approx({g: s.all.value for g, s in baselines.items()})
    assert first["groups"] != second["groups"]


def test_a_client_that_cannot_be_evaluated_is_named_and_left_out(tmp_path: Path) -> None:
    fault = only(raises, message_type="evaluate", group=FAULTY)
    run = Run(tmp_path, tiny_config(), fault)
    run.observe(0)
    run.monitor.finish()
    (line,) = run.lines()
    assert list(line["evaluation_failures"]) == [FAULTY]
    assert "KeyError: 'Nobody'" in line["evaluation_failures"][FAULTY]
    assert sorted(line["groups"]) == ["Northern farmers", HELD_OUT, "Northern teachers"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert FAULTY not in summary["groups"]


@pytest.mark.parametrize("key", [records.SCORES_ALL, records.SCORES_SEEN, records.SCORES_NEW])
def test_an_evaluation_without_scores_counts_as_a_failure(tmp_path: Path, key: str) -> None:
    forget = with_content(lambda c: c.metric_records[records.METRICS].pop(key))
    run = Run(tmp_path, tiny_config(), only(forget, message_type="evaluate", group=FAULTY))
    run.observe(0)
    assert list(run.lines()[0]["evaluation_failures"]) == [FAULTY]


def test_a_round_whose_evaluation_most_clients_fail_stops_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config(), only(raises, message_type="evaluate"))
    with pytest.raises(RoundError, match="0 of 4 clients"):
        run.observe(0)


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_run_that_is_stopped_is_scored_once_and_says_why(tmp_path: Path, evaluated: bool) -> None:
    run = Run(tmp_path, tiny_config(evaluation__every=1 if evaluated else 2, train__num_rounds=4))
    run.observe(0)
    run.observe(1)
    run.monitor.stop("The budget is spent.")
    *before, last = run.lines()
    assert (last["round"], last["stopped"]) == (1, "The budget is spent.")
    assert [line["round"] for line in (*before, last) if "groups" in line] == [0, 1]
    assert ("groups" in last) is not evaluated
    if not evaluated:
        assert last["megabytes_down"] == pytest.approx(before[0]["megabytes_down"])


def test_losses_of_a_round_are_averaged_over_its_clients(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config())
    assert run.observe(0) is not None
    losses = iter([0.5, 1.0, 3.0])

    def set_loss(content: RecordDict) -> None:
        content.metric_records[records.METRICS][records.LOSS] = next(losses)

    run.grid.fault = only(with_content(set_loss), message_type="train")
    arrays = ArrayRecord(dict(run.predictor.named_parameters()))
    content = RecordDict({records.ARRAYS: arrays})
    run.population.send_and_receive(
        [Message(content, i, "train") for i in run.population.get_node_ids()]
    )
    run.observe(1)
    before, after = run.lines()
    assert (before["loss"], before["clients"]) == (None, 0)
    assert (after["loss"], after["clients"], after["failures"]) == (1.5, 3, {})
    assert after["megabytes_up"] == pytest.approx(run.population.last_train.bytes_up / 1e6)


def test_a_run_without_held_out_groups_has_none_in_its_summary(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config(data__num_held_out_groups=0))
    run.observe(0)
    run.monitor.finish()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["held_out"] == {"model": None, "uniform": None, "population_mean": None}
    assert summary["train"]["model"]["alignment_score"] > 0


def test_the_model_is_scored_on_the_questions_and_splits_of_the_baselines(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config())
    run.observe(0, value=0.0)  # predicts what the uniform baseline does
    run.monitor.finish()
    summary = json.loads((tmp_path / "summary.json").read_text())
    for role in ("held_out", "train"):
        for split in ("seen_questions", "new_questions"):
            uniform = summary[role]["uniform"].pop(split)
            assert summary[role]["model"].pop(split) == pytest.approx(uniform, abs=1e-6)
        # Clients' bins of few options are not disclosed, the baselines' are computed here.
        for name in ("model", "uniform"):
            del summary[role][name]["calibration_error"]
        assert summary[role]["model"] == pytest.approx(summary[role]["uniform"], abs=1e-6)
    for entry in summary["groups"].values():
        assert entry["alignment_score"] == pytest.approx(entry["uniform"])


def test_questions_are_seen_when_another_training_group_was_asked_them(tmp_path: Path) -> None:
    config = tiny_config()
    run = Run(tmp_path, config)
    run.observe(0)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    keys = {group: set(load_group(config, group).question_keys.tolist()) for group in roles}
    for message in run.grid.messages("evaluate"):
        group, _ = group_and_round(message)
        sent = message.content.array_records["seen-questions"]["keys"].numpy().tolist()
        others = [keys[g] for g, role in roles.items() if role == "train" and g != group]
        assert keys[group] & set(sent) == keys[group] & set().union(*others)
        assert keys[group] - set(sent)  # some are new


def test_means_over_fewer_training_groups_never_become_the_best(tmp_path: Path) -> None:
    def worst_group_fails_later(
        message: Message, answer: Callable[[Message], Message]
    ) -> Message | None:
        if group_and_round(message) == (FAULTY, 1):
            return raises(message, answer)
        return scripted([0.5, 0.9], [0.5, 0.5])(message, answer)

    run = Run(tmp_path, tiny_config(train__num_rounds=1), worst_group_fails_later)
    for server_round in range(2):
        run.observe(server_round, value=server_round / 8)
    run.monitor.finish()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["round"], summary["best_round"]) == (1, 0)
    assert summary["missing_groups"] == [FAULTY]
    assert summary["best"]["train"]["alignment_score"] == pytest.approx(0.5)


def test_megabytes_cover_the_evaluation_too(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config())
    run.observe(0)
    (line,) = run.lines()
    sent = sum(
        len(array.data)
        for message in run.grid.messages("evaluate")
        for record in message.content.array_records.values()
        for array in record.values()
    )
    assert line["megabytes_down"] == pytest.approx(sent / 1e6) != 0


def test_a_group_without_own_parameters_counts_with_its_global_score(tmp_path: Path) -> None:
    own = {FAULTY: 0.9, "Northern farmers": 0.6}

    def fault(message: Message, answer: Callable[[Message], Message]) -> Message | None:
        group, _ = group_and_round(message)

        def add_own(content: RecordDict) -> None:
            if group in own:
                metrics = content.metric_records[records.METRICS]
                metrics[records.PERSONAL_SCORE] = [own[group] * 8.0, 8.0]

        return scripted([0.3], [0.1])(message, lambda m: with_content(add_own)(m, answer))

    run = Run(tmp_path, tiny_config(), only(fault, message_type="evaluate"), Ditto())
    run.observe(0)
    run.monitor.finish()
    personal = run.lines()[0]["personal"]
    # the teachers have not trained yet; held-out groups never do
    assert personal["groups"] == pytest.approx(own | {"Northern teachers": 0.3})
    assert personal["alignment_score"] == pytest.approx(0.6)
    assert personal["worst_group_name"] == "Northern teachers"
    assert json.loads((tmp_path / "summary.json").read_text())["personal"] == personal


def test_parameters_that_are_not_finite_are_neither_saved_nor_evaluated(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_config())
    checkpoints: list[int] = []
    run.monitor.after_round = lambda server_round, _: checkpoints.append(server_round)
    run.observe(0, value=0.5)
    with pytest.raises(RoundError, match=r"Round 1: the aggregated parameter .* is not finite"):
        run.observe(1, value=float("nan"))
    run.monitor.save()
    assert checkpoints == [0]
    assert value_of(load_predictor(tmp_path, "final")) == 0.5
