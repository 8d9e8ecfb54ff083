"""Faults of a deployment, one function each: what is done to a run, and what has come of it."""

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.testbed.app_copy import ask_for_fault, clear_faults, fault_happened
from benchmarks.testbed.deployment import Deployment
from benchmarks.testbed.network import Loopback
from benchmarks.testbed.parties import Party
from benchmarks.testbed.processes import wait_until
from benchmarks.testbed.runs import Run, final_scores

ROUND_SECONDS = 900.0
"""Limit of a wait for a round: a loaded machine needs a minute, a fault some more."""

CUT_SECONDS = 90.0
DISK_MEGABYTES = 4
TELLING = re.compile(
    r"without|killed|fail|refus|restart|not connected|no reply|waiting|resum|space|back|ended"
    r"|bound|scaled|finite|Next start",
    re.IGNORECASE,
)


@dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        figures: for the results.
        log: lines of the run's output that tell of it.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class Bench:
    """Runs on one deployment, each with its own fault.

    Args:
        deployment: a running one, of the app copy with faulty clients.
        settings: of every run.
        folder: where run directories go.
        seed: of what is random about faults.
    """

    def __init__(
        self, deployment: Deployment, settings: Mapping[str, Any], folder: Path, seed: int = 0
    ) -> None:
        self.deployment, self.settings, self.folder = deployment, dict(settings), folder
        self.random = random.Random(seed)
        self.num_rounds = int(settings["train.num-rounds"])

    @property
    def victim(self) -> Party:
        """The party to which things happen."""
        return next(party for party in self.deployment.split.parties if party.role == "train")

    def start(self, name: str, **changes: Any) -> Run:
        """Start a run named after its fault."""
        clear_faults(self.deployment.split.parties)
        return self.deployment.start_run(self.folder / name, {**self.settings, **changes})

    def finish(self, run: Run) -> Outcome:
        """Wait for a run's end and return what has come of it."""
        status = run.wait(ROUND_SECONDS * 2)
        return outcome_of(run, status, self.num_rounds)


def outcome_of(run: Run, status: int, num_rounds: int) -> Outcome:
    """Return figures and telling log lines of a run that has ended."""
    rounds = run.rounds()
    numbers = [entry["round"] for entry in rounds]
    state = json.loads((run.directory / "status.json").read_text())
    figures: dict[str, Any] = {
        "exit_status": status,
        "status": state["status"],
        "reason": state.get("reason", ""),
        "rounds_recorded": len(numbers) - 1,
        "rounds_missing": sorted(set(range(num_rounds + 1)) - set(numbers)),
        "rounds_recorded_twice": sorted({n for n in numbers if numbers.count(n) > 1}),
        "failures": {
            str(entry["round"]): entry["failures"] for entry in rounds if entry.get("failures")
        },
        "round_seconds": [round(entry["seconds"], 1) for entry in rounds],
    }
    if (run.directory / "summary.json").exists():
        figures["alignment_score"] = final_scores(run.directory)
    lines = [line.rstrip() for line in run.command.output.splitlines() if TELLING.search(line)]
    return Outcome(figures, lines[:40])


def undisturbed(bench: Bench) -> Outcome:
    """Nothing happens."""
    return bench.finish(bench.start("undisturbed"))


def client_fault(kind: str) -> Callable[[Bench], Outcome]:
    """Return the case in which a ClientApp misbehaves in the third round."""

    def case(bench: Bench) -> Outcome:
        run = bench.start(f"client-{kind}")
        run.wait_for_round(2, ROUND_SECONDS)
        ask_for_fault(bench.victim, kind)
        wait_until(lambda: fault_happened(bench.victim), ROUND_SECONDS, f"no {kind}")
        return bench.finish(run)

    return case


def supernode_killed(bench: Bench) -> Outcome:
    """A party's machine dies while its client trains, and is started again at once."""
    deployment, victim = bench.deployment, bench.victim
    run = bench.start("supernode-killed")
    run.wait_for_round(2, ROUND_SECONDS)
    wait_until(
        lambda: bool(deployment.processes(victim.name, "flwr-clientapp")),
        ROUND_SECONDS,
        "no client",
    )
    deployment.daemons[f"supernode-{victim.name}"].kill()
    killed = time.monotonic()
    daemon = deployment.start_supernode(victim)
    away = time.monotonic() - killed
    outcome = bench.finish(run)
    outcome.figures["seconds_until_connected_again"] = round(away, 1)
    outcome.log += [f"supernode: {line}" for line in _telling(daemon.output)]
    return outcome


def network_cut(bench: Bench) -> Outcome:
    """A party's network vanishes for 90 s while its client trains."""
    deployment, victim = bench.deployment, bench.victim
    if isinstance(deployment.network, Loopback):
        return Outcome({"skipped": "needs network namespaces"})
    run = bench.start("network-cut")
    run.wait_for_round(2, ROUND_SECONDS)
    wait_until(
        lambda: bool(deployment.processes(victim.name, "flwr-clientapp")),
        ROUND_SECONDS,
        "no client",
    )
    deployment.network.cut(victim.name)
    time.sleep(CUT_SECONDS)  # what is tested is just this time
    deployment.network.mend(victim.name)
    outcome = bench.finish(run)
    supernode = deployment.daemons[f"supernode-{victim.name}"]
    outcome.log += [f"supernode: {line}" for line in _telling(supernode.output)]
    return outcome


def superlink_killed(times: int) -> Callable[[Bench], Outcome]:
    """Return the case in which the SuperLink dies in random rounds and the run is resumed."""

    def case(bench: Bench) -> Outcome:
        deployment = bench.deployment
        run = bench.start("superlink-killed")
        at = sorted(bench.random.sample(range(1, bench.num_rounds), times))
        stories, log = [], []
        for number in at:
            run.wait_for_round(number, ROUND_SECONDS)
            time.sleep(bench.random.uniform(0.0, 6.0))  # anywhere in the next round
            before = run.last_round
            deployment.kill_superlink()
            died = time.monotonic()
            status = run.wait(ROUND_SECONDS)
            ended = outcome_of(run, status, bench.num_rounds)
            log += [f"killed after round {before}: {line}" for line in ended.log[-3:]]
            resumed = {"run.resume": str(run.directory)}
            deployment.wait_for_superlink()
            run = deployment.start_run(run.directory, resumed)
            wait_until(
                lambda before=before, run=run: (
                    run.last_round > before  # type: ignore[misc]
                    or run.command.process.poll() is not None
                ),
                ROUND_SECONDS,
                lambda run=run: str(run.command.output[-3000:]),  # type: ignore[misc]
            )
            stories.append(
                {
                    "killed_after_round": before,
                    "command_exit_status": status,
                    "seconds_until_next_round": round(time.monotonic() - died, 1),
                }
            )
        outcome = bench.finish(run)
        outcome.figures["kills"] = stories
        outcome.log = log + outcome.log
        return outcome

    return case


def disk_full(bench: Bench) -> Outcome:
    """The run directory's file system, of a few MB, fills up; then there is room again."""
    mount = bench.folder / "small-disk"
    with small_disk(mount) as mounted:
        if not mounted:
            return Outcome({"skipped": "needs the right to mount a tmpfs"})
        directory = mount / "run"
        deployment = bench.deployment
        clear_faults(deployment.split.parties)
        run = deployment.start_run(directory, bench.settings)
        run.wait_for_round(2, ROUND_SECONDS)
        ballast = mount / "ballast"
        fill(ballast)
        full_at = run.last_round
        deadline = time.monotonic() + ROUND_SECONDS
        while run.command.process.poll() is None and time.monotonic() < deadline:
            if run.last_round >= full_at + 3:
                break  # it goes on without writing, or writes within what was left
            time.sleep(1.0)
        log = [f"disk full: {line}" for line in _telling(run.command.output)]
        ballast.unlink()
        resumed = run.command.process.poll() is not None
        if resumed:
            run = deployment.start_run(directory, {"run.resume": str(directory)})
        outcome = bench.finish(run)
        outcome.figures |= {"full_after_round": full_at, "had_to_be_resumed": resumed}
        outcome.log = log + outcome.log
        shutil.copytree(directory, bench.folder / "disk-full")
        return outcome


@contextmanager
def small_disk(mount: Path) -> Iterator[bool]:
    """Mount a tmpfs of `DISK_MEGABYTES`; yield whether that was permitted."""
    mount.mkdir()
    size = f"size={DISK_MEGABYTES}m"
    command = ["mount", "-t", "tmpfs", "-o", size, "none", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(file: Path) -> None:
    """Write until the file system is full."""
    with file.open("wb", buffering=0) as output:  # nothing is left to write when it is closed
        try:
            while output.write(bytes(4096)):
                pass
        except OSError:
            return


def _telling(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if TELLING.search(line)][-12:]
