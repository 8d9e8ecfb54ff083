"""What is asked of a SuperLink that is slow, away, or comes back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployment import flower
from task.errors import DeploymentError

WAY = flower.Connection("pluralllm", Path())


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what `flwr ls` says, one after another; a second passes between two."""
    clock = [0.0]
    monkeypatch.setattr(flower.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(flower.time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 1))

    def say(*statuses: str) -> None:
        left: Iterator[str] = iter(statuses)

        def ask(*_: Any) -> dict[str, Any]:
            status = next(left)
            if status == "away":
                raise DeploymentError("Nobody answers.")
            return {"runs": [{"status": status}]}

        monkeypatch.setattr(flower, "ask", ask)

    return say


def test_a_superlink_that_comes_back_is_waited_for(answers: Callable[..., None]) -> None:
    answers("running", "away", "away", "running", "away", "away", "finished:completed")
    assert flower.run_status(WAY, "7", patience=None, away=3) == "finished:completed"


def test_one_that_stays_away_leaves_the_status_unknown(answers: Callable[..., None]) -> None:
    answers("running", "away", "away", "away", "away")
    assert flower.run_status(WAY, "7", patience=None, away=3) == "unknown: Nobody answers."


def test_a_command_without_an_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "flwr"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(flower, "program", lambda _: str(program))
    monkeypatch.setattr(flower, "ASK_SECONDS", 0.2)
    with pytest.raises(DeploymentError, match="the SuperLink hangs"):
        flower.ask(flower.Connection("pluralllm", tmp_path), ["ls"])
