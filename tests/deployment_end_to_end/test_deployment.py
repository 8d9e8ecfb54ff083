"""A deployment from an empty folder to a predictor, and what it refuses and survives.

In one file and in this order: the tests share a deployment, which takes a minute to start.
"""

import json
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from benchmarks.testbed.app_copy import ask_for_fault, clear_faults, fault_happened
from benchmarks.testbed.capture import Capture
from benchmarks.testbed.cases import fill, small_disk
from benchmarks.testbed.deployment import COORDINATOR, Deployment
from benchmarks.testbed.network import Network
from benchmarks.testbed.parties import Split
from benchmarks.testbed.processes import wait_until
from benchmarks.testbed.refusals import Refusals
from benchmarks.testbed.runs import Run, largest_difference, parameters
from benchmarks.testbed.simulation import simulate_split
from benchmarks.testbed.wire import findings
from tests.deployment_end_to_end.conftest import NUM_ROUNDS, RUN

SECONDS = 600.0


def finish(run: Run) -> Run:
    assert run.wait(SECONDS) == 0, run.command.output[-5000:]
    assert [entry["round"] for entry in run.rounds()] == list(range(NUM_ROUNDS + 1))
    return run


@pytest.fixture(scope="session")
def packets(folder: Path) -> Path:
    return folder / "packets.bin"


@pytest.fixture(scope="session")
def undisturbed(deployment: Deployment, folder: Path, network: Network, packets: Path) -> Run:
    """A run with nothing wrong; its packets are recorded where that is permitted."""
    with ExitStack() as recording:
        with suppress(PermissionError):  # the test that needs the packets is skipped
            recording.enter_context(Capture(network.interface, packets))
        deployment.start()
        return finish(deployment.start_run(folder / "undisturbed", RUN))


def test_a_deployment_gives_the_predictor_of_the_simulation(
    undisturbed: Run, split: Split, folder: Path
) -> None:
    simulate_split(split, RUN, folder / "simulated")
    assert largest_difference(undisturbed.directory, folder / "simulated") < 1e-5
    summary = json.loads((undisturbed.directory / "summary.json").read_text())
    assert set(summary["groups"]) == {party.group for party in split.parties}


def test_parties_score_responses_as_the_groups_of_a_simulation_do(
    undisturbed: Run, deployment: Deployment, split: Split, folder: Path
) -> None:
    rows = [
        {"prompt": "How do we cross the river?", "response": response, "against": "Not at all."}
        for response in ("By a tram.", "By a second bridge.", "By boat, as ever.")
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        **RUN,
        "score.rollouts": str(folder / "rollouts.jsonl"),
        "score.predictor": str(undisturbed.directory),
        "score.aggregation": "min",
        "score.batch-size": 2,
    }
    run = deployment.start_run(folder / "scored", settings)
    assert run.wait(SECONDS) == 0, run.command.output[-5000:]
    simulate_split(split, settings, folder / "scored-simulated")
    nodes, simulated = (
        [json.loads(line) for line in (folder / name / "scores.jsonl").read_text().splitlines()]
        for name in ("scored", "scored-simulated")
    )
    assert len(nodes) == len(simulated) == 3
    for entry, expected in zip(nodes, simulated, strict=True):
        assert set(entry["scores"]) == {party.group for party in split.parties}
        assert entry["scores"] == pytest.approx(expected["scores"], abs=1e-4)
        assert entry["score"] == pytest.approx(min(expected["scores"].values()), abs=1e-4)


def test_no_question_and_no_answer_can_be_read_on_the_wire(
    undisturbed: Run, split: Split, packets: Path
) -> None:
    if not packets.exists():
        pytest.skip("recording packets is not permitted here")
    found = findings(packets, split, 0)
    assert found["megabytes"] > 0.3  # the parameters went by
    assert found["texts_searched"] > 50
    assert found["texts_found"] == 0
    assert found["times_a_parameter_name_is_readable"] == 0


def test_a_party_keeps_its_answers_and_key_to_itself(
    undisturbed: Run, deployment: Deployment, split: Split
) -> None:
    secrets = [
        (deployment.party_folder(party.name) / "node.key").read_bytes() for party in split.parties
    ]
    secrets += [text.encode() for text in split.texts if len(text) > 30]
    for file in deployment.coordinator.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [secret for secret in secrets if secret in content], file


@pytest.fixture(scope="session")
def refusals(undisturbed: Run, deployment: Deployment, split: Split, folder: Path) -> Refusals:
    """With one SuperNode stopped, in whose place others try."""
    party = split.parties[0]
    deployment.daemons[f"supernode-{party.name}"].kill(signal.SIGTERM)
    return Refusals(deployment, party, folder / "refused")


def test_a_key_that_is_not_registered_is_refused(refusals: Refusals) -> None:
    assert "refuses this node" in refusals.unregistered_key()


def test_a_node_without_a_key_is_refused(refusals: Refusals) -> None:
    assert "node.key" in refusals.no_key()


def test_a_node_does_not_believe_another_authoritys_superlink(
    refusals: Refusals, deployment: Deployment, split: Split, folder: Path, network: Network
) -> None:
    other = Deployment(folder / "other", network, split)
    other.folder.mkdir()
    arguments = ["deploy", "init", str(other.coordinator), f"--address={other.address}"]
    other.command(COORDINATOR, *arguments)
    assert "certificate" in refusals.wrong_authority(other.coordinator / "coordinator" / "ca.crt")


def test_plain_http_is_refused(refusals: Refusals) -> None:
    assert refusals.plain_http()


def test_an_unknown_setting_is_refused_before_anything_starts(refusals: Refusals) -> None:
    message = refusals.unknown_setting()
    assert "train.num-round" in message
    assert "train.num-rounds" in message  # what was meant


def test_a_node_that_claims_another_partys_group_is_refused(
    refusals: Refusals, split: Split
) -> None:
    assert split.parties[1].group in refusals.other_group(split.parties[1].group)


def test_a_round_waits_for_a_killed_machine_to_return(
    refusals: Refusals, undisturbed: Run, deployment: Deployment, split: Split, folder: Path
) -> None:
    victim = split.parties[0]
    deployment.start_supernode(victim)
    everybody = {**RUN, "train.min-valid-fraction": 1.0}
    run = deployment.start_run(folder / "killed-machine", everybody)
    run.wait_for_round(1, SECONDS)
    wait_until(lambda: bool(deployment.processes(victim.name, "flwr-clientapp")), SECONDS, "client")
    deployment.daemons[f"supernode-{victim.name}"].kill()
    deployment.start_supernode(victim)
    finish(run)
    assert "clients sent a valid reply, 2 are needed: waiting" in run.command.output
    assert not any(entry["failures"] for entry in run.rounds())
    assert largest_difference(undisturbed.directory, run.directory) < 1e-5


def test_rounds_go_on_without_a_client_that_misbehaves(
    undisturbed: Run, deployment: Deployment, split: Split, folder: Path
) -> None:
    victim, last = split.parties[0], 7
    settings = {"train.num-rounds": last, "evaluation.every": last, "train.round-timeout": 60.0}
    run = deployment.start_run(folder / "misbehaving", {**RUN, **settings})
    for fault in ("raise", "nan", "scale", "hang"):
        ask_for_fault(victim, fault)
        wait_until(lambda: fault_happened(victim), SECONDS, f"no {fault}")
        clear_faults([victim])
    assert run.wait(SECONDS) == 0, run.command.output[-5000:]
    rounds = run.rounds()
    assert [entry["round"] for entry in rounds] == list(range(last + 1))
    assert all(set(entry["failures"]) <= {victim.group} for entry in rounds)
    reasons = [entry["failures"][victim.group] for entry in rounds if entry["failures"]]
    for said in ("RuntimeError", "not finite", "norm", "no reply within 60 s"):
        assert [reason for reason in reasons if said in reason], (said, reasons)


def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(
    undisturbed: Run, deployment: Deployment, folder: Path
) -> None:
    with small_disk(folder / "small-disk") as mounted:
        if not mounted:
            pytest.skip("mounting a small disk is not permitted here")
        ballast = folder / "small-disk" / "ballast"
        run = deployment.start_run(folder / "small-disk" / "run", RUN)
        run.wait_for_round(1, SECONDS)
        fill(ballast)
        assert run.wait(SECONDS) == 1
        assert "No space left on device" in run.command.output
        ballast.unlink()
        finish(deployment.start_run(run.directory, {"run.resume": str(run.directory)}))
        assert largest_difference(undisturbed.directory, run.directory) < 1e-5


def test_a_run_goes_on_where_a_killed_superlink_left_it(
    undisturbed: Run, deployment: Deployment, split: Split, folder: Path
) -> None:
    run = deployment.start_run(folder / "killed-superlink", RUN)
    run.wait_for_round(2, SECONDS)
    time.sleep(1.0)  # somewhere in the third round
    deployment.kill_superlink()
    assert run.wait(SECONDS) == 1
    deployment.wait_for_superlink()
    finish(deployment.start_run(run.directory, {"run.resume": str(run.directory)}))
    # Every round was computed from the same parameters as without the fault.
    assert largest_difference(undisturbed.directory, run.directory) < 1e-5
    assert parameters(run.directory)
    shutil.rmtree(folder / "killed-superlink")
