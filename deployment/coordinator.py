"""The coordinator's folder: who takes part, the SuperLink's certificate, and where things lie.

In `FOLDER/coordinator/`, which stays with the coordinator (mode 0700):

- `superlink.toml`: address, names in the certificate, where to listen;
- `ca.crt`, `ca.key`: the certificate authority; `ca.key` may be kept elsewhere (`renew`);
- `server.pem`: the SuperLink's key and certificate, in one file since they belong together;
- `parties.toml`: who takes part, with groups, role, public key and node id;
- `registry.toml`: the part of it that a run reads (`nodes.registry`);
- `flower/`: FLWR_HOME, whose `config.toml` has the connection `pluralllm`;
- `state.db`, `runs.jsonl`, `runs/`, `logs/`.

`FOLDER/parties/NAME/` is to be handed over to that party (`deployment.hand_over`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from filelock import FileLock

from deployment.certificates import (
    Issued,
    issue_server_certificate,
    make_authority,
)
from deployment.files import make_folder, read_toml, write_file, write_toml
from deployment.parties import Party, parties_from_toml, parties_to_toml, require_distinct
from task.errors import DeploymentError

CONNECTION = "pluralllm"
"""Name of the connection to the SuperLink in Flower's `config.toml`."""

AUTHORITY_DAYS = 3650


@dataclass(frozen=True)
class SuperLinkAddress:
    """Where the SuperLink is.

    Attributes:
        host: by which the parties call it.
        port: its only port.
        listen: the address of this machine that it listens on.
        names: further names and addresses in its certificate.
    """

    host: str
    port: int
    listen: str
    names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`host:port`, as Flower takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Coordinator:
    """A deployment's folder, as the coordinator has it.

    Args:
        folder: the deployment's, which holds `coordinator/` and `parties/`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.own = self.folder / "coordinator"
        self.flower_home = self.own / "flower"
        self.authority = self.own / "ca.crt"
        self.authority_key = self.own / "ca.key"
        self.certificate = self.own / "server.pem"
        self.registry = self.own / "registry.toml"
        self.registration_lock = self.own / ".registration.lock"
        self.state = self.own / "state.db"
        self.logs = self.own / "logs"
        self.runs = self.own / "runs"
        self.run_list = self.own / "runs.jsonl"
        self._settings = self.own / "superlink.toml"
        self.parties_file = self.own / "parties.toml"

    @classmethod
    def open(cls, folder: Path) -> "Coordinator":
        """Return the folder that `init` has made.

        Raises:
            DeploymentError: it has not.
        """
        coordinator = cls(folder)
        if not coordinator._settings.is_file():
            raise DeploymentError(
                f"{folder} is not a deployment's folder: there is no {coordinator._settings}. Make "
                "one with `pluralllm deploy init`, or give the folder that holds coordinator/."
            )
        return coordinator

    @classmethod
    def create(
        cls, folder: Path, address: SuperLinkAddress, parties: Sequence[Party], days: int
    ) -> "Coordinator":
        """Make the coordinator's part of a deployment.

        Raises:
            DeploymentError: the folder is there and not empty, two parties have the same name, or
                the address cannot stand in a certificate.
        """
        coordinator = cls(folder)
        if coordinator.folder.exists() and any(coordinator.folder.iterdir()):
            raise DeploymentError(
                f"{folder} exists and is not empty: a deployment is never overwritten. Choose "
                "another folder, or add to this one with `pluralllm deploy add`."
            )
        require_distinct(parties)
        authority = make_authority(AUTHORITY_DAYS)
        server = issue_server_certificate(authority, (address.host, *address.names), days)
        for made in (coordinator.folder, coordinator.own, coordinator.flower_home):
            make_folder(made)
        make_folder(coordinator.logs)
        make_folder(coordinator.runs)
        write_file(coordinator.authority, authority.certificate)
        write_file(coordinator.authority_key, authority.key, secret=True)
        coordinator._write_server(server)
        coordinator._write_address(address)
        coordinator.write_connection(address.port, insecure=False)
        coordinator._write_parties(parties)
        return coordinator

    @property
    def address(self) -> SuperLinkAddress:
        """Where the SuperLink is."""
        content = read_toml(self._settings)
        try:
            return SuperLinkAddress(
                str(content["host"]),
                int(content["port"]),
                str(content["listen"]),
                tuple(content["names"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DeploymentError(
                f"{self._settings} lacks or spoils {error}. Expected host, port, listen and names."
            ) from None

    def parties(self) -> list[Party]:
        """Return who takes part, in name order."""
        return parties_from_toml(read_toml(self.parties_file), self.parties_file)

    @contextmanager
    def changing_parties(self) -> Iterator[dict[str, Party]]:
        """Give the parties by name, and write them and the registry as the block leaves them.

        One process at a time: the SuperLink's supervisor and `deploy add` may both be at it.

        Raises:
            DeploymentError: two parties would have the same group; nothing is written.
        """
        with FileLock(self.own / ".parties.lock"):
            parties = {party.name: party for party in self.parties()}
            yield parties
            require_distinct(list(parties.values()))
            self._write_parties(list(parties.values()))

    def write_connection(self, port: int, *, insecure: bool) -> None:
        """Write the connection by which `flwr` on this machine finds the SuperLink."""
        connection: dict[str, str | bool] = {"address": f"127.0.0.1:{port}"}
        if insecure:
            connection["insecure"] = True
        else:
            connection["root-certificates"] = str(self.authority)
        write_toml(
            self.flower_home / "config.toml",
            {"superlink": {"default": CONNECTION, CONNECTION: connection}},
            "Written by `pluralllm deploy`.",
        )

    @property
    def is_insecure(self) -> bool:
        """Whether the SuperLink was last started without TLS and authentication."""
        return bool(self._connection().get("insecure", False))

    @property
    def local_port(self) -> int:
        """The SuperLink's port on 127.0.0.1, since it was last started."""
        return int(self._connection()["address"].rpartition(":")[2])

    def _connection(self) -> dict[str, Any]:
        content = read_toml(self.flower_home / "config.toml")
        connection: dict[str, Any] = content["superlink"][CONNECTION]
        return connection

    def renew(
        self, days: int, authority_key: Path | None = None, names: Sequence[str] = ()
    ) -> None:
        """Replace the SuperLink's key and certificate.

        Args:
            days: how long the new one is valid.
            authority_key: the certificate authority's key, where it is kept elsewhere.
            names: host names and addresses that it has not had before.

        Raises:
            DeploymentError: the authority's files are missing, damaged or expired.
        """
        key = authority_key or self.authority_key
        try:
            authority = Issued(self.authority.read_bytes(), key.read_bytes())
        except OSError as error:
            raise DeploymentError(
                f"{error.filename} cannot be read: {error.strerror}. Where is the certificate "
                "authority's key kept? Give it with --ca-key."
            ) from None
        address = self.address
        address = replace(address, names=tuple(dict.fromkeys((*address.names, *names))))
        self._write_server(
            issue_server_certificate(authority, (address.host, *address.names), days)
        )
        self._write_address(address)

    def _write_address(self, address: SuperLinkAddress) -> None:
        write_toml(
            self._settings,
            {
                "host": address.host,
                "port": address.port,
                "listen": address.listen,
                "names": list(address.names),
            },
            "The SuperLink's address. After a change of `host` or `names`: `pluralllm deploy renew`"
            "\n(and the parties' supernode.toml).",
        )

    def _write_server(self, server: Issued) -> None:
        write_file(self.certificate, server.key + server.certificate, secret=True)

    def _write_parties(self, parties: Sequence[Party]) -> None:
        """Write all that is known of the parties, and from it the registry that runs read."""
        write_toml(
            self.parties_file,
            parties_to_toml(parties),
            "Who takes part. Written by `pluralllm deploy`; groups and role may be changed by hand"
            "\n(then restart the SuperLink).",
        )
        nodes = {
            party.name: {
                "node-id": party.node_id,
                "groups": list(party.groups),
                "role": party.role,
            }
            for party in parties
            if party.node_id
        }
        write_toml(
            self.registry,
            {"nodes": nodes},
            "Which node may serve which group, in which role. Written by `pluralllm deploy` from\n"
            "parties.toml.",
        )


def parse_address(text: str, names: Sequence[str] = (), listen: str = "") -> SuperLinkAddress:
    """Parse `host:port`, as the parties will call the SuperLink.

    Args:
        text: the address.
        names: further names and addresses for the certificate.
        listen: address of this machine to listen on. Empty: the loopback one where `text` names
            that, else all.

    Raises:
        DeploymentError: it is no address.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise DeploymentError(
            f"--address {text!r}: expected HOST:PORT without https://, such as "
            "superlink.example.org:8000."
        )
    if not listen:
        listen = "127.0.0.1" if _is_loopback(host) else "0.0.0.0"
    return SuperLinkAddress(host, int(port), listen, tuple(names))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
