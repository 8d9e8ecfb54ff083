"""What a party is told when its SuperNode ends; the texts are Flower's own."""

from pathlib import Path

import pytest

from deployment import supernode
from deployment.coordinator import Coordinator, parse_address
from deployment.hand_over import hand_over, party_folder
from deployment.node_auth import UNKNOWN_KEY, WRONG_CLOCK
from deployment.parties import Party
from deployment.probe import Probe
from deployment.supernode import Refusals
from deployment.supernode_config import read_supernode_config
from deployment.supervisor import Ended

REFUSED = (
    "ERROR :     Exit Code: 305",
    "Failed to initialize the connection to the SuperLink.",
    "[code: 2004] Failed to activate SuperNode.",
)
NOT_TRUSTED = (
    "ERROR :     SSL/TLS handshake error detected.",
    "ERROR :     Exit Code: 305",
)


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    party = Party("hospital", ("Germany",))
    coordinator = Coordinator.create(tmp_path / "d", parse_address("127.0.0.1:1"), [party], 1)
    hand_over(coordinator, party, make_key=True)
    folder = party_folder(coordinator, "hospital")
    file = folder / "supernode.toml"
    file.write_text(file.read_text().replace('data-path = ""', 'data-path = "x.csv"'))
    return Refusals(read_supernode_config(folder), insecure=False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(supernode.time, "monotonic", lambda: now[0])
    return now


def ended(*lines: str, status: int = 1) -> Ended:
    return Ended(status, 3.0, lines)


def test_a_refusal_is_at_first_that_of_a_node_still_online(
    refusals: Refusals, clock: list[float]
) -> None:
    assert "still counts as online" in refusals.explain(ended(*REFUSED))
    clock[0] += 59
    assert "still counts as online" in refusals.explain(ended(*REFUSED))
    clock[0] += 2
    said = refusals.explain(ended(*REFUSED))
    assert "for 61 s: its key SHA256:" in said
    assert "is not registered" in said


def test_a_refusal_after_another_end_is_a_new_one(refusals: Refusals, clock: list[float]) -> None:
    refusals.explain(ended(*REFUSED))
    clock[0] += 600
    assert "exit status -9" in refusals.explain(ended(status=-9))
    assert "still counts as online" in refusals.explain(ended(*REFUSED))


def test_what_the_gateway_refuses_needs_no_waiting(refusals: Refusals) -> None:
    lines = ("Exit Code: 305", f"[code: 401] {UNKNOWN_KEY}")
    assert "is not registered" in refusals.explain(ended(*lines))
    assert "minutes off" in refusals.explain(ended("Exit Code: 305", f"[code: 401] {WRONG_CLOCK}"))


def test_a_node_that_ends_itself_was_removed(refusals: Refusals) -> None:
    said = refusals.explain(ended("INFO :   SuperNode terminated gracefully.", status=0))
    assert "removed" in said
    assert "clock" in said


def test_a_certificate_that_is_not_trusted_is_asked_for_its_reason(
    refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernode, "probe", lambda *_: Probe(False, True, "Not this one."))
    assert refusals.explain(ended(*NOT_TRUSTED)) == "Not this one."


def test_another_version_of_flower_is_named(refusals: Refusals) -> None:
    assert "another version of Flower" in refusals.explain(ended("ERROR :  Exit Code: 606"))
