"""A run of a deployment, as its command and its run directory tell of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.testbed.processes import Daemon, wait_until


class Run:
    """A run.

    Args:
        directory: its run directory.
        command: the `pluralllm deploy run` that follows it.
    """

    def __init__(self, directory: Path, command: Daemon) -> None:
        self.directory, self.command = directory, command

    def rounds(self) -> list[dict[str, Any]]:
        """Return what the run has recorded, a mapping per round; the first is before training."""
        return read_rounds(self.directory)

    @property
    def last_round(self) -> int:
        """The last recorded round; -1 before the first record."""
        return max((entry["round"] for entry in self.rounds()), default=-1)

    def wait_for_round(self, number: int, seconds: float) -> None:
        """Wait until a round is recorded.

        Raises:
            TimeoutError: it is not in time.
            ChildProcessError: the run's command has ended before.
        """

        def recorded() -> bool:
            ended = self.command.process.poll() is not None
            if self.last_round >= number:
                return True
            if ended:
                raise ChildProcessError(
                    f"the run ended before round {number}:\n{self.command.output[-3000:]}"
                )
            return False

        wait_until(recorded, seconds, lambda: f"round {number}:\n{self.command.output[-3000:]}")

    def wait(self, seconds: float) -> int:
        """Wait for the command's end; return its exit status."""
        return self.command.wait(seconds)


def read_rounds(directory: Path) -> list[dict[str, Any]]:
    """Return the records of `metrics.jsonl`; none where there is no such file yet."""
    file = directory / "metrics.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def final_scores(directory: Path) -> dict[str, float]:
    """Return the final alignment score by role.

    Raises:
        FileNotFoundError: the run has not been completed.
    """
    summary = json.loads((directory / "summary.json").read_text())
    return {role: summary[role]["model"]["alignment_score"] for role in ("train", "held_out")}


def parameters(directory: Path) -> dict[str, np.ndarray]:
    """Return the final predictor's parameters."""
    tensors: dict[str, np.ndarray] = load_file(directory / "predictor-final" / "model.safetensors")
    return tensors


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest absolute difference between two runs' final predictors.

    Raises:
        ValueError: they have different parameters.
    """
    ours, theirs = parameters(one), parameters(other)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{one} and {other} hold different parameters")
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
