"""`supernode.toml`: what a party's machine needs to take part, checked before it connects."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployment.certificates import read_certificate
from deployment.coordinator import SuperLinkAddress, parse_address
from deployment.files import make_folder, read_toml
from deployment.hand_over import SUPERNODE_FILE
from deployment.node_keys import check_private_key
from deployment.parties import ROLES
from task.errors import DeploymentError, suggest
from task.privacy_config import UNITS
from task.settings import Scalar

SUPERLINK_KEYS = ("address", "certificate-authority", "private-key")
NODE_TYPES: dict[str, type] = {
    "data-path": str,
    "group": str,
    "role": str,
    "state-path": str,
    "encoder": str,
    "privacy-unit": str,
    "max-epsilon": float,
    "disclose-answers": bool,
}
"""Keys of Flower's `--node-config` that this app's client reads."""


@dataclass(frozen=True)
class SuperNodeConfig:
    """A party's settings, with absolute paths.

    Attributes:
        folder: of the file; the supervisor keeps Flower's files and its log there.
        address: of the SuperLink.
        authority: the certificate authority's certificate.
        private_key: of the node.
        node: for Flower's `--node-config`.
    """

    folder: Path
    address: SuperLinkAddress
    authority: Path
    private_key: Path
    node: Mapping[str, Scalar]

    @property
    def data(self) -> Path:
        """The survey's file."""
        return Path(str(self.node["data-path"]))

    @property
    def groups(self) -> str:
        """The groups that the machine serves, `|` between them; empty: the file's only one."""
        return str(self.node.get("group", ""))


def read_supernode_config(path: Path) -> SuperNodeConfig:
    """Read `supernode.toml`, or the one in a folder.

    Raises:
        DeploymentError: a key is unknown, missing or wrong.
    """
    file = (path / SUPERNODE_FILE if path.is_dir() else path).absolute()
    content = read_toml(file)
    tables = _known(content, ("superlink", "node"), f"{file}:")
    superlink = _known(tables.get("superlink", {}), SUPERLINK_KEYS, f"{file}: [superlink]")
    node = _known(tables.get("node", {}), NODE_TYPES, f"{file}: [node]")
    missing = [key for key in SUPERLINK_KEYS if not superlink.get(key)]
    missing += [key for key in ("data-path",) if not node.get(key)]
    if missing:
        raise DeploymentError(
            f"{file}: {missing[0]} is empty or missing. Fill it in; the file says what is meant."
        )
    settings = {key: _typed(file, key, value) for key, value in node.items() if value != ""}
    folder = file.parent
    for key in ("data-path", "state-path"):
        if key in settings:
            settings[key] = str(folder / Path(str(settings[key])).expanduser())
    encoder = folder / Path(str(settings.get("encoder", ""))).expanduser()
    if "encoder" in settings and encoder.is_dir():  # otherwise a hub id
        settings["encoder"] = str(encoder)
    return SuperNodeConfig(
        folder=folder,
        address=parse_address(str(superlink["address"])),
        authority=folder / Path(str(superlink["certificate-authority"])).expanduser(),
        private_key=folder / Path(str(superlink["private-key"])).expanduser(),
        node=settings,
    )


def check_supernode(config: SuperNodeConfig, *, insecure: bool) -> None:
    """Check the files that a node needs, and make its state folder.

    Raises:
        DeploymentError: the key or the certificate is missing or wrong, or the state folder cannot
            be written.
    """
    if not insecure:
        read_certificate(config.authority)
        check_private_key(config.private_key)
    if not os.access(config.data, os.R_OK):
        raise DeploymentError(
            f"data-path = {str(config.data)!r} does not exist or cannot be read by this user. Give "
            "the survey's file."
        )
    if state := config.node.get("state-path"):
        try:
            make_folder(Path(str(state)))
        except OSError as error:
            raise DeploymentError(
                f"state-path = {state!r} cannot be made: {error.strerror}. Give a folder that this "
                "user may write."
            ) from None


def _known(table: Any, keys: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise DeploymentError(f"{where} expected a table, got {table!r}.")
    for key in table:
        if key not in keys:
            raise DeploymentError(
                f"{where} has the unknown key {key!r}.{suggest(key, keys)} Expected some of "
                f"{', '.join(keys)}."
            )
    return dict(table)


def _typed(file: Path, key: str, value: object) -> Scalar:
    expected = NODE_TYPES[key]
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        names = {str: "a text", float: "a number", bool: "true or false"}
        raise DeploymentError(f"{file}: {key} = {value!r}: expected {names[expected]}.")
    choices = {"role": ROLES, "privacy-unit": UNITS}.get(key)
    if choices and value not in choices:
        raise DeploymentError(f"{file}: {key} = {value!r}: expected one of {', '.join(choices)}.")
    return value  # type: ignore[return-value]
