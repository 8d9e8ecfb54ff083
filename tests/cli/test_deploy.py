"""The commands' own part; what they call is tested in tests/deployment."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cli import deploy, deploy_run
from cli.deploy_run import nodes_config
from deployment.coordinator import Coordinator
from deployment.probe import Probe
from deployment.runs import StartedRun
from task.errors import RunDirectoryError
from tests.cli.command import Command
from tests.cli.test_check_data import write_survey

INIT = ("deploy", "init", "d", "--address", "127.0.0.1:1")
PARTIES = ("--party", "hospital=Germany", "--party", "paper=France", "--held-out", "ministry=Japan")
NOW = datetime(2026, 1, 2, 3, 4, 5)


def roles(folder: Path) -> dict[str, str]:
    return {party.name: party.role for party in Coordinator.open(folder).parties()}


def keys(folder: Path) -> dict[str, bool]:
    return {party.name: bool(party.public_key) for party in Coordinator.open(folder).parties()}


def test_the_whole_way_to_keys_that_parties_make(pluralllm: Command, tmp_path: Path) -> None:
    outcome = pluralllm(*INIT, *PARTIES)
    assert outcome.status == 0, outcome.err
    assert "hospital: hand over d/parties/hospital" in outcome.out
    assert roles(tmp_path / "d") == {"hospital": "train", "ministry": "held-out", "paper": "train"}
    assert not any(keys(tmp_path / "d").values())
    made = pluralllm("deploy", "key", "d/parties/paper")
    assert "Send d/parties/paper/node.pub to the coordinator" in made.out
    added = pluralllm("deploy", "add", "d", "paper", "d/parties/paper/node.pub")
    assert added.status == 0, added.err
    assert added.out.splitlines()[0].split()[-1] in made.out  # the same fingerprint at both ends
    assert "it registers the node when it starts" in added.out
    assert keys(tmp_path / "d") == {"hospital": False, "ministry": False, "paper": True}


def test_the_coordinator_may_make_the_keys(pluralllm: Command, tmp_path: Path) -> None:
    assert pluralllm(*INIT, *PARTIES, "--make-keys").status == 0
    assert all(keys(tmp_path / "d").values())


def test_a_new_key_takes_the_former_ones_place(
    pluralllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pluralllm(*INIT, *PARTIES, "--make-keys")
    coordinator = Coordinator.open(tmp_path / "d")
    with coordinator.changing_parties() as parties:
        parties["paper"] = replace(parties["paper"], node_id="12")
    (tmp_path / "new").mkdir()
    pluralllm("deploy", "key", "new")
    refused = pluralllm("deploy", "add", "d", "paper", "new/node.pub")
    assert refused.status == 2  # there is no SuperLink to take the former key out of
    assert coordinator.parties()[2].node_id == "12"
    out: list[str] = []
    monkeypatch.setattr(deploy, "cut_off", lambda _, number: out.append(number))
    assert pluralllm("deploy", "add", "d", "paper", "new/node.pub").status == 0
    assert out == ["12"]
    assert coordinator.parties()[2].node_id == ""
    assert coordinator.parties()[2].public_key in (tmp_path / "new/node.pub").read_text()
    assert pluralllm("deploy", "add", "d", "paper", "new/node.pub").status == 0
    assert out == ["12"]


def test_a_party_may_come_later(pluralllm: Command, tmp_path: Path) -> None:
    pluralllm(*INIT, *PARTIES)
    added = pluralllm("deploy", "add", "d", "radio", "--group", "Peru|Chile", "--held-out")
    assert "radio: hand over d/parties/radio" in added.out
    assert roles(tmp_path / "d")["radio"] == "held-out"
    assert 'group = "Peru|Chile"' in (tmp_path / "d/parties/radio/supernode.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "d", "--address", "127.0.0.1:1"], "never overwritten"),
        (["init", "e", "--address", "https://x"], "expected HOST:PORT"),
        (["init", "e", "--address", "x:1", "--party", "hospital"], "NAME=GROUP"),
        (["add", "d", "radio", "x.pub"], "x.pub cannot be read"),
        (["add", "d", "radio"], "There is no party 'radio'"),
        (["add", "d", "paper", "--group", "France"], "is a party already"),
        (["add", "d", "radio", "--group", "France"], "with paper and with radio"),
        (["add", "d", "paper", "hospital.pub"], "This key is hospital's"),
        (["status", "."], "is not a deployment's folder"),
        (["renew", "d", "--ca-key", "gone"], "gone cannot be read"),
        (["supernode", "d/parties/paper"], "data-path is empty"),
        (["key", "gone"], "is not a folder"),
        (["run", "d"], "Start the SuperLink with `pluralllm deploy superlink d`"),
        (["run", "d", "engine.name=cohort"], "expected 'flower' (or nothing) for a run on nodes"),
        (["run", "d", "data.source=table"], "expected 'nodes' (or nothing)"),
        (["run", "d", "data.train-groups=x"], "each node's own config says it"),
        (["run", "d", "strategy.name=fedavgg"], "Did you mean 'fedavg'?"),
        (["run", "d", "strategy.name=ditto", "checkpoint.every=5"], "checkpoint.every = 5"),
        (
            ["run", "d", "strategy.name=fedmedian", "privacy.secure-aggregation=true"],
            "strategy.name = 'fedmedian'",
        ),
        (["remove", "d", "nobody"], "no party 'nobody'"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(
    pluralllm: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    pluralllm(*INIT, *PARTIES)
    pluralllm("deploy", "key", "d/parties/hospital")
    (tmp_path / "d/parties/hospital/node.pub").rename(tmp_path / "hospital.pub")
    assert pluralllm("deploy", "add", "d", "hospital", "hospital.pub").status == 0
    outcome = pluralllm("deploy", *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "e").exists()


def test_a_checked_supernode_is_run(
    pluralllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pluralllm(*INIT, *PARTIES, "--make-keys")
    write_survey(tmp_path, "Germany")
    file = tmp_path / "d/parties/hospital/supernode.toml"
    file.write_text(file.read_text().replace('path = ""', 'path = "../../../survey.csv"'))
    ran: list[Any] = []
    monkeypatch.setattr(deploy, "run_supernode", lambda config, **options: ran.append(options))
    outcome = pluralllm("deploy", "supernode", "d/parties/hospital", "--port", "5")
    assert outcome.status == 0, outcome.err
    assert ran == [{"insecure": False, "port": 5}]


def test_status_is_told_without_a_superlink(pluralllm: Command, tmp_path: Path) -> None:
    pluralllm(*INIT, *PARTIES)
    outcome = pluralllm("deploy", "status", "d")
    assert "SuperLink does not run: Nobody answers at 127.0.0.1:1" in outcome.out
    assert "ministry" in outcome.out
    told = json.loads(pluralllm("deploy", "status", "d", "--json").out)
    assert [node["status"] for node in told["nodes"]] == ["no key"] * 3
    assert told["runs"] == []


# -- deploy run ------------------------------------------------------------------------------------


@pytest.fixture
def coordinator(pluralllm: Command, tmp_path: Path) -> Coordinator:
    pluralllm(*INIT, *PARTIES, "--make-keys")
    return Coordinator.open(tmp_path / "d")


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch, coordinator: Coordinator) -> dict[str, Any]:
    """A SuperLink that runs and takes every run; `status` is what becomes of it."""
    told: dict[str, Any] = {"status": "finished:completed"}

    def start(_: Coordinator, settings: dict[str, Any], directory: Path) -> StartedRun:
        told["settings"] = settings
        return StartedRun("42", str(directory), "now")

    def follow(*_: Any) -> str:
        if told["status"] == "interrupted":
            raise KeyboardInterrupt
        return str(told["status"])

    monkeypatch.setattr(deploy_run, "probe_superlink", lambda _: Probe(True))
    monkeypatch.setattr(deploy_run, "known_nodes", lambda _: {})
    monkeypatch.setattr(deploy_run, "start_run", start)
    monkeypatch.setattr(deploy_run, "follow_run", follow)
    return told


def test_a_run_takes_its_data_from_the_registered_nodes(coordinator: Coordinator) -> None:
    config = nodes_config(coordinator, {"train.num-rounds": 3}, NOW)
    assert config.data.source == "nodes"
    assert config.nodes.registry == str(coordinator.registry)
    assert config.run.directory == str(coordinator.runs / "20260102-030405-nodes-seed0")
    assert config.train.num_rounds == 3


def test_without_keys_there_is_no_registry(coordinator: Coordinator) -> None:
    coordinator.write_connection(1, insecure=True)
    assert nodes_config(coordinator, {}, NOW).nodes.registry == ""


def test_a_resumed_run_keeps_its_settings_where_none_are_given(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("[train]\nnum-rounds = 7\nlocal-steps = 2\n")
    given = {"run.resume": str(tmp_path / "run"), "train.num-rounds": 9}
    config = nodes_config(coordinator, given, NOW)
    assert (config.train.num_rounds, config.train.local_steps) == (9, 2)
    assert config.run.directory == ""
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        nodes_config(coordinator, {"run.resume": "gone"}, NOW)


def test_a_completed_run(pluralllm: Command, flower: dict[str, Any]) -> None:
    outcome = pluralllm("deploy", "run", "d", "train.num-rounds=2")
    assert outcome.status == 0, outcome.err
    assert "Not connected: hospital, ministry, paper." in outcome.out
    assert flower["settings"]["train.num-rounds"] == 2


def test_a_failed_run_has_a_status_and_says_why(
    pluralllm: Command, flower: dict[str, Any], tmp_path: Path
) -> None:
    flower["status"] = "finished:failed"
    outcome = pluralllm("deploy", "run", "d", "run.directory=mine")
    assert outcome.status == 1
    assert "error: the run did not complete (finished:failed)" in outcome.err


def test_a_superlink_that_is_away_is_no_failed_run(
    pluralllm: Command, flower: dict[str, Any]
) -> None:
    flower["status"] = "unknown: nobody answers"
    outcome = pluralllm("deploy", "run", "d")
    assert outcome.status == 1
    assert "it may go on (unknown: nobody answers)" in outcome.err
    assert "did not complete" not in outcome.err


def test_an_interrupted_command_leaves_its_run_alone(
    pluralllm: Command, flower: dict[str, Any]
) -> None:
    flower["status"] = "interrupted"
    outcome = pluralllm("deploy", "run", "d")
    assert outcome.status == 130
    assert "Run 42 goes on without this command: `pluralllm deploy status d`" in outcome.out


def test_a_detached_run_is_not_followed(pluralllm: Command, flower: dict[str, Any]) -> None:
    flower["status"] = "interrupted"
    outcome = pluralllm("deploy", "run", "d", "--detach")
    assert outcome.status == 0
    assert "Run 42 started" in outcome.out
