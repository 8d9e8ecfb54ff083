"""A SuperLink, a SuperNode per party and runs, each as processes of a machine of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.testbed.certificates import make_certificates, make_node_key
from benchmarks.testbed.network import Network, free_port
from benchmarks.testbed.parties import Party, Split
from benchmarks.testbed.processes import Daemon

BIN = Path(sys.executable).parent
CONNECTION = "testbed"
COORDINATOR = "coordinator"
START_SECONDS = 120.0


class Deployment:
    """A deployment in a folder.

    Args:
        folder: holds everything that it writes.
        network: where its machines are.
        split: its parties and their data.
        app: folder of the app; `flwr run` packs it.
        secure: with TLS and node keys; otherwise plain HTTP.
    """

    def __init__(
        self, folder: Path, network: Network, split: Split, app: Path, secure: bool = True
    ) -> None:
        self.folder, self.network, self.split, self.app = folder, network, split, app
        self.secure = secure
        self.address = f"{network.server_address}:{free_port(network.server_address)}"
        self.daemons: dict[str, Daemon] = {}
        self._ports: dict[str, int] = {}
        self._home(COORDINATOR).mkdir(parents=True)
        if secure:
            make_certificates(self.folder / COORDINATOR, network.server_address)
            for party in split.parties:
                make_node_key(self.key(party.name))
        trust = f'root-certificates = "{self.ca}"' if secure else "insecure = true"
        (self._home(COORDINATOR) / "config.toml").write_text(
            f'[superlink.{CONNECTION}]\naddress = "{self.address}"\n{trust}\n'
        )

    @property
    def ca(self) -> Path:
        """Certificate of the authority that parties trust."""
        return self.folder / COORDINATOR / "ca.crt"

    def key(self, name: str) -> Path:
        """Private key of a party."""
        return self.folder / name / "key"

    def start_superlink(self) -> Daemon:
        """Start the SuperLink, and wait until it answers."""
        host, port = self.address.split(":")
        folder = self.folder / COORDINATOR
        command = [str(BIN / "flower-superlink"), "--host", host, "--port", port]
        command += ["--database", str(folder / "state.db")]
        command += ["--disable-runtime-dependency-installation"]
        if self.secure:
            command += ["--ssl-ca-certfile", str(self.ca), "--enable-supernode-auth"]
            command += ["--ssl-certfile", str(folder / "server.pem")]
            command += ["--ssl-keyfile", str(folder / "server.key")]
        else:
            command += ["--insecure"]
        daemon = self._start("superlink", COORDINATOR, command)
        daemon.wait_for("Uvicorn running on", START_SECONDS)
        return daemon

    def register(self) -> None:
        """Make all parties' public keys known to the SuperLink."""
        for party in self.split.parties if self.secure else ():
            public = str(self.key(party.name).with_suffix(".pub"))
            self.flwr("supernode", "register", public, CONNECTION, "--name", party.name)

    def start_supernode(self, party: Party, *, wait: bool = True, **changes: str | None) -> Daemon:
        """Start a party's SuperNode, and wait until it is connected.

        Args:
            party: whose.
            wait: until it is connected.
            changes: options of `flower-supernode` to replace (`auth_supernode_private_key`), or
                with None to leave out.
        """
        self._ports.setdefault(party.name, free_port())
        options: dict[str, str | None] = {
            "superlink": self.address,
            "port": str(self._ports[party.name]),
            "node-config": self.node_config(party),
        }
        if self.secure:
            options["root-certificates"] = str(self.ca)
            options["auth-supernode-private-key"] = str(self.key(party.name))
        else:
            options["insecure"] = ""
        options |= {name.replace("_", "-"): value for name, value in changes.items()}
        command = [*self.network.command_prefix(party.name), str(BIN / "flower-supernode")]
        for name, value in options.items():
            if value is not None:
                command += [f"--{name}", value] if value else [f"--{name}"]
        daemon = self._start(f"supernode-{party.name}", party.name, command)
        if wait:
            daemon.wait_for("SuperNode ID: ", START_SECONDS)
        return daemon

    def node_config(self, party: Party) -> str:
        """Return what a party's SuperNode says to its ClientApp."""
        index = self.split.parties.index(party)
        return f"partition-id={index} num-partitions={len(self.split.parties)} data-path=\"{party.data}\""

    def start_run(self, settings: Mapping[str, Any]) -> Daemon:
        """Start a run and stream its log; it ends with the run."""
        file = self.folder / COORDINATOR / "run.toml"
        file.write_text(tomli_w.dumps(dict(settings)))
        command = [str(BIN / "flwr"), "run", str(self.app), CONNECTION, "--stream"]
        return self._start("run", COORDINATOR, [*command, "--run-config", str(file)])

    def flwr(self, *arguments: str) -> str:
        """Run a command of Flower's command line as the coordinator."""
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env={**os.environ, **self._environment(COORDINATOR)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"flwr {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def mark(self, machine: str) -> str:
        """Return the mark of all processes of a machine."""
        return f"{self.folder}/{machine}"

    def close(self) -> None:
        """End everything."""
        for daemon in reversed(self.daemons.values()):
            with suppress(TimeoutError, subprocess.TimeoutExpired):
                daemon.kill()

    def _start(self, name: str, machine: str, command: list[str]) -> Daemon:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        mark, environment = self.mark(machine), self._environment(machine)
        self._home(machine).mkdir(parents=True, exist_ok=True)
        daemon = Daemon(name, command, logs / f"{name}.log", mark, environment, self.folder)
        self.daemons[name] = daemon
        return daemon

    def _home(self, machine: str) -> Path:
        return self.folder / machine / "flower"

    def _environment(self, machine: str) -> dict[str, str]:
        """Every machine has its own files; one thread, as the simulation it is compared with."""
        return {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self._home(machine)),
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PLURALLLM_CACHE": str(self.folder / machine / "cache"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        }
