"""A long run with a random fault every few rounds, and the memory of all that takes part."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.testbed.app_copy import ask_for_fault
from benchmarks.testbed.cases import (
    ROUND_SECONDS,
    Bench,
    Outcome,
    outcome_of,
)
from benchmarks.testbed.deployment import COORDINATOR
from benchmarks.testbed.memory import MemorySampler, slopes
from benchmarks.testbed.network import Loopback
from benchmarks.testbed.parties import Party
from benchmarks.testbed.runs import Run

FAULT_EVERY = 10
SAMPLE_SECONDS = 10.0
SETTLING_ROUNDS = 15
CLIENT_FAULTS = ("raise", "nan", "scale", "die")
SHORT_CUT_SECONDS = 20.0


class Soak:
    """A run of many rounds, disturbed.

    Args:
        bench: its deployment; `train.num-rounds` says how many rounds.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.deployment = bench.deployment
        self.faults: list[dict[str, Any]] = []
        self.run: Run | None = None

    def carry_out(self, memory_file: Path) -> Outcome:
        """Do it; write memory samples to a file and return what has come of it."""
        bench, deployment = self.bench, self.deployment
        marks = {COORDINATOR: deployment.mark(COORDINATOR)}
        marks |= {p.name: deployment.mark(p.name) for p in deployment.split.parties}
        started = time.monotonic()
        self.run = run = bench.start("soak")
        with MemorySampler(marks, run.directory / "metrics.jsonl", SAMPLE_SECONDS) as sampler:
            for at in range(FAULT_EVERY, bench.num_rounds, FAULT_EVERY):
                self.run.wait_for_round(at, ROUND_SECONDS * FAULT_EVERY)
                self._disturb(at)
            status = self.run.wait(ROUND_SECONDS * FAULT_EVERY)
        sampler.write_csv(memory_file)
        outcome = outcome_of(self.run, status, bench.num_rounds)
        del outcome.figures["round_seconds"]
        outcome.figures |= {
            "minutes": round((time.monotonic() - started) / 60, 1),
            "faults": self.faults,
            "memory": slopes(sampler.samples, SETTLING_ROUNDS),
        }
        return outcome

    def _disturb(self, at: int) -> None:
        """Let a random thing go wrong at a random party, from the given round on."""
        choices: dict[str, Callable[[Party], None]] = {
            **{f"client: {kind}": self._client_fault(kind) for kind in CLIENT_FAULTS},
            "SuperNode killed": self._kill_supernode,
            "machine killed": self._kill_machine,
            "SuperLink killed": self._kill_superlink,
        }
        if not isinstance(self.deployment.network, Loopback):
            choices["network cut"] = self._cut
        name = self.bench.random.choice(sorted(choices))
        trained = [party for party in self.deployment.split.parties if party.role == "train"]
        victim = self.bench.random.choice(trained)
        choices[name](victim)
        where = COORDINATOR if name == "SuperLink killed" else victim.name
        self.faults.append({"after_round": at, "fault": name, "where": where})

    def _client_fault(self, kind: str) -> Callable[[Party], None]:
        return lambda party: ask_for_fault(party, kind)

    def _kill_supernode(self, party: Party) -> None:
        self.deployment.kill(party.name, "flower-supernode")  # its supervisor starts it again

    def _kill_machine(self, party: Party) -> None:
        self.deployment.daemons[f"supernode-{party.name}"].kill()
        self.deployment.start_supernode(party, wait=False)

    def _kill_superlink(self, _party: Party) -> None:
        assert self.run is not None
        self.deployment.kill_superlink()
        self.run.wait(ROUND_SECONDS)
        self.deployment.wait_for_superlink()
        directory = self.run.directory
        self.run = self.deployment.start_run(directory, {"run.resume": str(directory)})

    def _cut(self, party: Party) -> None:
        self.deployment.network.cut(party.name)
        time.sleep(SHORT_CUT_SECONDS)
        self.deployment.network.mend(party.name)
