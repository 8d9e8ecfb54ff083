"""A deployment made by `pluralllm deploy`: SuperLink, a SuperNode per party, and runs.

Every party has a folder, a cache and (in network namespaces) a network of its own, as on machines
of their own; what the documented commands hand over is all they share.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.testbed.network import Network, free_port
from benchmarks.testbed.parties import Party, Split
from benchmarks.testbed.processes import Daemon, machine_processes, wait_until
from benchmarks.testbed.runs import Run

PLURALLLM = str(Path(sys.executable).with_name("pluralllm"))
PROJECT = Path(__file__).parents[2]
COORDINATOR = "coordinator"
START_SECONDS = 180.0
RETURN_SECONDS = 240.0


class Deployment:
    """A deployment in a folder.

    Args:
        folder: holds everything that it writes.
        network: where its machines are.
        split: its parties and their data.
        app: the app's folder, which runs are started from; the project's by default.
        secure: with TLS and node keys; otherwise plain HTTP.
    """

    def __init__(
        self,
        folder: Path,
        network: Network,
        split: Split,
        app: Path = PROJECT,
        secure: bool = True,
    ) -> None:
        self.folder, self.network, self.split, self.app = folder, network, split, app
        self.secure = secure
        self.address = f"{network.server_address}:{free_port(network.server_address)}"
        self.coordinator = folder / COORDINATOR
        self.daemons: dict[str, Daemon] = {}
        self._superlink_ready = "Nodes are known" if secure else "The SuperLink answers"
        self._answers_before = 0

    def make(self) -> None:
        """Make folders, certificates and keys as the documentation says: from an empty folder."""
        self.folder.mkdir(parents=True)
        options = [f"--address={self.address}", f"--listen={self.network.server_address}"]
        for party in self.split.parties:
            option = "--party" if party.role == "train" else "--held-out"
            options.append(f"{option}={party.name}={party.group}")
        self.command(COORDINATOR, "deploy", "init", str(self.coordinator), *options)
        for party in self.split.parties:
            # On its way to the party: a folder without secrets.
            handed = self.coordinator / "parties" / party.name
            shutil.copytree(handed, self.party_folder(party.name))
            settings = self.party_folder(party.name) / "supernode.toml"
            text = settings.read_text().replace('data-path = ""', f'data-path = "{party.data}"')
            settings.write_text(text)
            if self.secure:
                self.command(party.name, "deploy", "key", str(self.party_folder(party.name)))
                public = str(self.party_folder(party.name) / "node.pub")
                self.command(
                    COORDINATOR, "deploy", "add", str(self.coordinator), party.name, public
                )

    def party_folder(self, name: str) -> Path:
        """Return the folder on a party's machine."""
        return self.folder / name

    def start_superlink(self) -> Daemon:
        """Start the SuperLink, and wait until it answers and knows the nodes."""
        arguments = ["deploy", "superlink", str(self.coordinator), *self._insecure()]
        daemon = self._start("superlink", COORDINATOR, arguments)
        daemon.wait_for(self._superlink_ready, START_SECONDS)
        return daemon

    def start_supernode(
        self,
        party: Party,
        *,
        wait: bool = True,
        folder: Path | None = None,
        options: Sequence[str] = (),
    ) -> Daemon:
        """Start a party's SuperNode, and wait until it is connected.

        Args:
            party: whose.
            wait: until it is connected.
            folder: with another `supernode.toml`.
            options: further ones of the command.
        """
        where = str(folder or self.party_folder(party.name))
        name = f"supernode-{party.name}"
        arguments = ["deploy", "supernode", where, *self._insecure(), *options]
        daemon = self._start(name, party.name, arguments)
        if wait:
            daemon.wait_for("SuperNode ID: ", RETURN_SECONDS)
        return daemon

    def start(self) -> None:
        """Start the SuperLink and all SuperNodes."""
        self.start_superlink()
        for party in self.split.parties:
            self.start_supernode(party, wait=False)
        for party in self.split.parties:
            self.daemons[f"supernode-{party.name}"].wait_for("SuperNode ID: ", START_SECONDS)

    def start_run(self, directory: Path, settings: Mapping[str, Any]) -> Run:
        """Start a run in a directory; with `run.resume` among the settings, continue one."""
        given = dict(settings)
        if "run.resume" not in given:
            given["run.directory"] = str(directory)
        words = [f"{key}={value}" for key, value in given.items()]
        arguments = ["deploy", "run", str(self.coordinator), *words]
        return Run(directory, self._start("run", COORDINATOR, arguments))

    def kill(self, machine: str, program: str) -> None:
        """Kill one of Flower's programs on a machine (SIGKILL), all processes of it.

        Raises:
            TimeoutError: there is none for a long time.
        """

        def killed() -> bool:
            found = self.processes(machine, program)
            for process in found:
                process.kill()
            return bool(found)

        wait_until(killed, START_SECONDS, f"no {program} on {machine}")

    def kill_superlink(self) -> None:
        """Kill the SuperLink (SIGKILL); its supervisor will start it again."""
        self._answers_before = self._superlink_answers()
        self.kill(COORDINATOR, "flower-superlink")

    def wait_for_superlink(self) -> None:
        """Wait until the supervisor has a killed SuperLink running again."""
        wait_until(
            lambda: self._superlink_answers() > self._answers_before,
            RETURN_SECONDS,
            lambda: self.daemons["superlink"].output[-3000:],
        )

    def _superlink_answers(self) -> int:
        return self.daemons["superlink"].output.count(self._superlink_ready)

    def processes(self, machine: str, program: str) -> list[Any]:
        """Return the processes of one of Flower's programs on a machine."""
        return [
            process
            for process in machine_processes(self.mark(machine))
            if any(Path(word).name == program for word in _command_line(process)[:3])
        ]

    def command(self, machine: str, *arguments: str) -> str:
        """Run a `pluralllm` command on a machine to its end; return what it prints.

        Raises:
            RuntimeError: it fails.
        """
        done = subprocess.run(
            [PLURALLLM, *arguments],
            env={**os.environ, **self._environment(machine)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pluralllm {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def mark(self, machine: str) -> str:
        """Return the mark of all processes of a machine."""
        return f"{self.folder}/{machine}"

    def close(self) -> None:
        """End everything."""
        for daemon in reversed(self.daemons.values()):
            with suppress(TimeoutError, subprocess.TimeoutExpired):
                daemon.kill()

    def _start(self, name: str, machine: str, arguments: list[str]) -> Daemon:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        prefix = [] if machine == COORDINATOR else self.network.command_prefix(machine)
        daemon = Daemon(
            name,
            [*prefix, PLURALLLM, *arguments],
            logs / f"{name}.log",
            self.mark(machine),
            self._environment(machine),
            self.folder,
        )
        self.daemons[name] = daemon
        return daemon

    def _insecure(self) -> list[str]:
        return [] if self.secure else ["--insecure"]

    def _environment(self, machine: str) -> dict[str, str]:
        """Every machine has its own cache; one thread, as the simulation it is compared with."""
        return {
            "PLURALLLM_PROJECT": str(self.app),
            "PLURALLLM_CACHE": str(self.folder / f"cache-{machine}"),
            "PYTHONPATH": str(PROJECT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        }


def _command_line(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:  # it has ended
        return []
    return words
