"""Machines of a testbed: network namespaces joined by a bridge, or plain loopback."""

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Network(Protocol):
    """Where processes run, and what connects them.

    Attributes:
        server_address: IPv4 address of the coordinator, as parties see it.
        interface: interface that all traffic between coordinator and parties passes.
    """

    server_address: str
    interface: str

    def command_prefix(self, machine: str) -> list[str]:
        """Return what goes in front of a command to run it on a party's machine."""

    def cut(self, machine: str) -> None:
        """Take a machine's network away: packets vanish, nobody is told."""

    def mend(self, machine: str) -> None:
        """Give a machine its network back."""


class Loopback:
    """All processes share one machine's loopback interface; no network can be cut."""

    server_address = "127.0.0.1"
    interface = "lo"

    def command_prefix(self, machine: str) -> list[str]:
        """Return nothing: commands run as they are."""
        return []

    def cut(self, machine: str) -> None:
        """Refuse: loopback is one for all."""
        raise NotImplementedError("the loopback network cannot be cut for one machine")

    def mend(self, machine: str) -> None:
        """Refuse, as `cut` does."""
        raise NotImplementedError("the loopback network cannot be cut for one machine")


class Namespaces:
    """A namespace per party, linked by a veth pair to a bridge on which the coordinator listens.

    The coordinator stays in the namespace of the caller, with the bridge's address.
    """

    def __init__(self) -> None:
        # Random names and subnet: several testbeds may share a machine.
        self._tag = secrets.token_hex(3)
        self._subnet = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
        self._machines: dict[str, int] = {}
        self.interface = f"pl-{self._tag}"
        self.server_address = f"{self._subnet}.1"

    def open(self) -> None:
        """Create the bridge.

        Raises:
            PermissionError: this needs the right to administer the network.
        """
        try:
            _ip("link", "add", self.interface, "type", "bridge")
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            raise PermissionError(f"network namespaces are not permitted here: {error}") from error
        _ip("addr", "add", f"{self.server_address}/24", "dev", self.interface)
        _ip("link", "set", self.interface, "up")

    def command_prefix(self, machine: str) -> list[str]:
        """Return what runs a command in the party's namespace, made when first asked for."""
        if machine not in self._machines:
            self._add(machine)
        return ["ip", "netns", "exec", self._namespace(machine)]

    def cut(self, machine: str) -> None:
        """Take the machine's link down at the bridge's end: its own interface notices nothing."""
        _ip("link", "set", self._link(machine), "nomaster")

    def mend(self, machine: str) -> None:
        """Put the machine's link back on the bridge."""
        _ip("link", "set", self._link(machine), "master", self.interface)

    def close(self) -> None:
        """Remove everything that was created."""
        for machine in self._machines:
            _ip("netns", "del", self._namespace(machine))
        _ip("link", "del", self.interface)

    def _add(self, machine: str) -> None:
        number = self._machines[machine] = len(self._machines) + 2
        namespace, link, inside = self._namespace(machine), self._link(machine), "eth0"
        _ip("netns", "add", namespace)
        _ip("link", "add", link, "type", "veth", "peer", "name", inside, "netns", namespace)
        _ip("link", "set", link, "master", self.interface)
        _ip("link", "set", link, "up")
        _ip("-n", namespace, "addr", "add", f"{self._subnet}.{number}/24", "dev", inside)
        _ip("-n", namespace, "link", "set", inside, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _namespace(self, machine: str) -> str:
        return f"pl-{self._tag}-{self._machines[machine]}"

    def _link(self, machine: str) -> str:
        return f"pl{self._tag}v{self._machines[machine]}"


@contextmanager
def open_network() -> Iterator[Network]:
    """Open network namespaces where that is permitted, else loopback."""
    namespaces = Namespaces()
    try:
        namespaces.open()
    except PermissionError:
        yield Loopback()
        return
    try:
        yield namespaces
    finally:
        namespaces.close()


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _ip(*arguments: str) -> None:
    subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, env=os.environ | {"LC_ALL": "C"}
    )
