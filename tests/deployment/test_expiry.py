"""A SuperLink that runs for months says that its certificate is about to end."""

import threading
from pathlib import Path

import pytest

from deployment import superlink
from deployment.coordinator import Coordinator, parse_address
from deployment.probe import Probe


@pytest.mark.parametrize(("days", "warned"), [(20, True), (200, False)])
def test_a_superlink_that_runs_on_warns_each_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, warned: bool
) -> None:
    monkeypatch.setattr(superlink, "WARNING_SECONDS", 0.01)
    monkeypatch.setattr(superlink, "probe_superlink", lambda _: Probe(True))
    monkeypatch.setattr(superlink, "register_parties", lambda _: [])
    address = parse_address("127.0.0.1:1")
    coordinator = Coordinator.create(tmp_path / "d", address, [], days=days)
    said: list[str] = []
    over = threading.Event()
    following = threading.Thread(
        target=superlink._follow,
        args=(coordinator,),
        kwargs={"insecure": False, "over": over, "say": said.append},
    )
    following.start()
    over.wait(0.5)
    over.set()
    following.join(10)
    assert not following.is_alive()
    assert (sum("ends in 19 days" in line for line in said) > 1) == warned
