"""Faults of a real deployment: SuperLink, SuperNodes, TLS, node keys; each fault done for real.

Four training parties and a held-out one, a group of the survey each, in network namespaces where
this is permitted (else on loopback, without what needs them). All runs are the same but for what is
done to them, so their alignment scores can be compared with that of the undisturbed one.

    python -m benchmarks.faults --data FILE --out benchmarks/results/faults.json
    python -m benchmarks.faults --data FILE --out ... --only network-cut --only disk-full
    python -m benchmarks.faults --data FILE --out ... --only soak --soak 200
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.testbed.app_copy import copy_faulty_app
from benchmarks.testbed.cases import (
    Bench,
    Outcome,
    client_fault,
    disk_full,
    network_cut,
    superlink_killed,
    supernode_killed,
    undisturbed,
)
from benchmarks.testbed.deployment import Deployment
from benchmarks.testbed.network import Network, open_network
from benchmarks.testbed.parties import Split, split_survey
from benchmarks.testbed.refusals import try_all
from benchmarks.testbed.runs import largest_difference
from benchmarks.testbed.settings import SMALL
from benchmarks.testbed.simulation import simulate_split
from benchmarks.testbed.soak import Soak
from benchmarks.testbed.wire import captured_run

NUM_TRAIN, NUM_HELD_OUT, NUM_ROUNDS = 4, 1, 8
CASES: Mapping[str, Callable[[Bench], Outcome]] = {
    "undisturbed": undisturbed,
    "supernode-killed": supernode_killed,
    "client-raise": client_fault("raise"),
    "client-die": client_fault("die"),
    "client-nan": client_fault("nan"),
    "client-scale": client_fault("scale"),
    "client-hang": client_fault("hang"),
    "network-cut": network_cut,
    "superlink-killed": superlink_killed(5),
    "disk-full": disk_full,
}
OTHERS = ("equality", "refusals", "wire", "soak")
RUN = {
    **SMALL,
    "train.num-rounds": NUM_ROUNDS,
    "train.round-timeout": 120.0,
    "evaluation.every": NUM_ROUNDS,
    "nodes.patience": 300.0,
}

SOAK = {"train.clients-per-round": 2}  # a process per message is what a round costs


class Campaign:
    """Cases, one after another, each written down when it is done.

    Args:
        split: the parties.
        network: where they are.
        folder: for everything that is made on the way.
        out: file of results; cases that are in it already are kept or replaced.
        soak_rounds: rounds of the soak.
    """

    def __init__(
        self, split: Split, network: Network, folder: Path, out: Path, soak_rounds: int
    ) -> None:
        self.split, self.network, self.folder, self.out = split, network, folder, out
        self.soak_rounds = soak_rounds
        self.results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}

    def carry_out(self, names: list[str]) -> None:
        """Carry out the named cases."""
        if on_deployment := [name for name in names if name not in ("wire", "refusals")]:
            with self._deployment("faulty") as deployment:
                bench = Bench(deployment, RUN, self.folder / "runs")
                for name in on_deployment:
                    self._carry_out(name, bench)
        if "refusals" in names:
            self._refusals()
        if "wire" in names:
            self._wire()

    def _carry_out(self, name: str, bench: Bench) -> None:
        print(f"{name} ...", flush=True)
        started = time.monotonic()
        if name == "soak":
            settings = {**RUN, **SOAK, "train.num-rounds": self.soak_rounds}
            settings["evaluation.every"] = self.soak_rounds
            memory = self.out.with_name(f"{self.out.stem}_memory.csv")
            soak = Soak(Bench(bench.deployment, settings, self.folder / "runs"))
            outcome = soak.carry_out(memory)
        elif name == "equality":
            outcome = self._equality(bench)
        else:
            outcome = CASES[name](bench)
        entry = {
            **outcome.figures,
            "seconds": round(time.monotonic() - started),
            "log": outcome.log,
        }
        self._compare(entry)
        self._write(name, entry)

    def _compare(self, entry: dict[str, Any]) -> None:
        plain = self.results.get("undisturbed", {}).get("alignment_score")
        if plain and "alignment_score" in entry:
            entry["alignment_score_minus_undisturbed"] = {
                role: round(score - plain[role], 5)
                for role, score in entry["alignment_score"].items()
            }

    def _equality(self, bench: Bench) -> Outcome:
        """Train on the same groups in a simulation, and compare with the undisturbed run."""
        directory = self.folder / "runs" / "undisturbed"
        if not directory.exists():
            undisturbed(bench)
        simulated = self.folder / "runs" / "simulation"
        simulate_split(self.split, RUN, simulated)
        return Outcome({"largest_difference": largest_difference(directory, simulated)})

    def _refusals(self) -> None:
        with self._deployment("refusals", start_first=False) as deployment:
            messages = try_all(
                deployment, self.split.parties[0], self.folder / "refused", self.network
            )
        self._write("refusals", messages)

    def _wire(self) -> None:
        settings = {**RUN, "train.num-rounds": 2, "evaluation.every": 2}
        found = {
            name: captured_run(
                self.folder / name, self.network, self.split, settings, secure=secure
            )
            for name, secure in (("tls", True), ("insecure", False))
        }
        self._write("wire", found)

    @contextmanager
    def _deployment(self, name: str, *, start_first: bool = True) -> Iterator[Deployment]:
        """Make and start a deployment, the first party's SuperNode only if wanted."""
        app = copy_faulty_app(self.folder / f"app-{name}")
        deployment = Deployment(self.folder / name, self.network, self.split, app)
        try:
            deployment.make()
            deployment.start_superlink()
            for party in self.split.parties[int(not start_first) :]:
                deployment.start_supernode(party)
            yield deployment
        finally:
            deployment.close()

    def _write(self, name: str, entry: Mapping[str, Any]) -> None:
        text = json.dumps(entry, indent=2, ensure_ascii=False)
        # No place of this machine: results are read elsewhere.
        self.results[name] = json.loads(text.replace(str(self.folder), "FOLDER"))
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=2, ensure_ascii=False) + "\n")
        print(text, flush=True)


def main() -> None:
    """Carry out the campaign, or parts of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", required=True, help="GlobalOpinionQA's CSV file")
    parser.add_argument("--out", type=Path, required=True, help="file of results (JSON)")
    parser.add_argument(
        "--only", action="append", choices=[*CASES, *OTHERS], help="this case alone; repeatable"
    )
    parser.add_argument("--soak", type=int, default=200, help="rounds of the soak")
    parser.add_argument("--keep", type=Path, help="empty folder for all files (default: temporary)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary, open_network() as network:
        folder = (given.keep or Path(temporary)).absolute()
        data = {"data.source": "global-opinions", "data.path": str(Path(given.data).absolute())}
        split = split_survey(data, folder / "data", NUM_TRAIN, NUM_HELD_OUT)
        campaign = Campaign(split, network, folder, given.out.absolute(), given.soak)
        campaign.carry_out(given.only or [*CASES, *OTHERS])


if __name__ == "__main__":
    main()
