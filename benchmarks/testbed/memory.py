"""Resident memory of a deployment's processes over time."""

import csv
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import psutil

from benchmarks.testbed.processes import marked_processes

KINDS = (
    "flower-superlink",
    "flower-supernode",
    "flower-superexec",
    "flwr-serverapp",
    "flwr-clientapp",
)
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Memory of one process at one moment.

    Attributes:
        seconds: since the sampler's start.
        rounds: rounds done by then.
        machine: whose process it is.
        kind: which of Flower's programs.
        pid: of the process.
        megabytes: its resident memory.
    """

    seconds: float
    rounds: int
    machine: str
    kind: str
    pid: int
    megabytes: float


class MemorySampler:
    """Samples memory every so often while the `with` block runs.

    Args:
        marks: machine to the mark of its processes.
        rounds: file to which a run adds a line per round.
        every: seconds between samples.
    """

    def __init__(self, marks: Mapping[str, str], rounds: Path, every: float) -> None:
        self.samples: list[Sample] = []
        self._machines = {mark: machine for machine, mark in marks.items()}
        self._rounds, self._every = rounds, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(self._every):
            done = self._rounds.read_text().count("\n") if self._rounds.exists() else 0
            seconds = time.monotonic() - started
            for mark, members in marked_processes(self._machines).items():
                for member in members:
                    if (found := _kind_and_memory(member)) is not None:
                        self.samples.append(
                            Sample(
                                seconds, done, self._machines[mark], found[0], member.pid, found[1]
                            )
                        )

    def write_csv(self, file: Path) -> None:
        """Write all samples but those of ClientApps, which live for one message."""
        with file.open("w", newline="") as output:
            writer = csv.writer(output)
            writer.writerow(["seconds", "rounds", "machine", "kind", "pid", "megabytes"])
            for each in lasting(self.samples):
                writer.writerow(
                    [
                        f"{each.seconds:.0f}",
                        each.rounds,
                        each.machine,
                        each.kind,
                        each.pid,
                        f"{each.megabytes:.1f}",
                    ]
                )


def lasting(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples of processes that outlive a message."""
    return [each for each in samples if each.kind != "flwr-clientapp"]


def slopes(samples: Sequence[Sample], skip_rounds: int) -> list[dict[str, float | str | int]]:
    """Return the growth of every lasting process, least squares, in MB per 100 rounds.

    Args:
        samples: of any processes.
        skip_rounds: rounds left out at each process's start, in which it loads code and fills
            caches; a process that lived for fewer than as many again is left out.
    """
    by_process: dict[tuple[str, str, int], list[Sample]] = {}
    for each in lasting(samples):
        by_process.setdefault((each.machine, each.kind, each.pid), []).append(each)
    found: list[dict[str, float | str | int]] = []
    for (machine, kind, _), own in by_process.items():
        settled = [each for each in own if each.rounds >= own[0].rounds + skip_rounds]
        if not settled or settled[-1].rounds - settled[0].rounds < skip_rounds:
            continue
        rounds = np.array([each.rounds for each in settled], dtype=float)
        megabytes = np.array([each.megabytes for each in settled])
        found.append(
            {
                "machine": machine,
                "kind": kind,
                "first_round": settled[0].rounds,
                "last_round": settled[-1].rounds,
                "first_mb": round(float(megabytes[0]), 1),
                "last_mb": round(float(megabytes[-1]), 1),
                "mb_per_100_rounds": round(float(np.polyfit(rounds, megabytes, 1)[0]) * 100, 2),
            }
        )
    return found


def _kind_and_memory(process: psutil.Process) -> tuple[str, float] | None:
    try:
        words = " ".join(process.cmdline()[:3])
        memory = process.memory_info().rss / MEGABYTE
    except (psutil.Error, OSError):
        return None
    kind = next((kind for kind in KINDS if kind in words), None)
    return (kind, memory) if kind else None
