"""`supernode.toml`: what a party's machine needs to take part, checked before it connects."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployment.certificates import read_certificate
from deployment.coordinator import SuperLinkAddress, parse_address
from deployment.files import make_folder, read_toml
from deployment.hand_over import SUPERNODE_FILE
from deployment.node_keys import check_private_key
from task.errors import ConfigError, DeploymentError, suggest
from task.node_config import NodeConfig, asked_only, node_help
from task.settings import Scalar

SUPERLINK_KEYS = ("address", "certificate-authority", "private-key")
PATH_KEYS = ("data-path", "state-path")


@dataclass(frozen=True)
class SuperNodeConfig:
    """A party's settings, with absolute paths.

    Attributes:
        folder: of the file; the supervisor keeps Flower's files and its log there.
        address: of the SuperLink.
        authority: the certificate authority's certificate.
        private_key: of the node.
        node: what this machine serves and insists on.
        given: the same as Flower's `--node-config` takes it: the keys that the file has.
    """

    folder: Path
    address: SuperLinkAddress
    authority: Path
    private_key: Path
    node: NodeConfig
    given: Mapping[str, Scalar]


def read_supernode_config(path: Path) -> SuperNodeConfig:
    """Read `supernode.toml`, or the one in a folder.

    Raises:
        DeploymentError: a key is unknown, missing or wrong.
    """
    file = (path / SUPERNODE_FILE if path.is_dir() else path).absolute()
    content = read_toml(file)
    tables = _known(content, ("superlink", "node"), f"{file}:")
    superlink = _known(tables.get("superlink", {}), SUPERLINK_KEYS, f"{file}: [superlink]")
    node = _known(tables.get("node", {}), node_help(), f"{file}: [node]")
    missing = [key for key in SUPERLINK_KEYS if not superlink.get(key)]
    missing += [key for key in ("data-path",) if not node.get(key)]
    if missing:
        raise DeploymentError(
            f"{file}: {missing[0]} is empty or missing. Fill it in; the file says what is meant."
        )
    folder = file.parent
    given = {key: value for key, value in node.items() if value != ""}
    for key in PATH_KEYS:
        if key in given:
            given[key] = str(folder / Path(str(given[key])).expanduser())
    encoder = folder / Path(str(given.get("encoder", ""))).expanduser()
    if "encoder" in given and encoder.is_dir():  # otherwise a hub id
        given["encoder"] = str(encoder)
    try:
        parsed = NodeConfig.of(given)
    except ConfigError as error:
        raise DeploymentError(f"{file}: {error}") from None
    return SuperNodeConfig(
        folder=folder,
        address=parse_address(str(superlink["address"])),
        authority=folder / Path(str(superlink["certificate-authority"])).expanduser(),
        private_key=folder / Path(str(superlink["private-key"])).expanduser(),
        node=parsed,
        given=given,
    )


def check_supernode(config: SuperNodeConfig, *, insecure: bool) -> None:
    """Check the files that a node needs, and make its state folder.

    Raises:
        DeploymentError: the key or the certificate is missing or wrong, or the state folder cannot
            be written.
        SurveyError: the survey is malformed, or lacks a group that the node is to serve.
    """
    if not insecure:
        read_certificate(config.authority)
        check_private_key(config.private_key)
    if not os.access(config.node.data_path, os.R_OK):
        raise DeploymentError(
            f"data-path = {config.node.data_path!r} does not exist or cannot be read by this user. "
            "Give the survey's file."
        )
    asked_only(config.node)  # says what is wrong with the survey
    if config.node.state_path:
        try:
            make_folder(Path(config.node.state_path))
        except OSError as error:
            raise DeploymentError(
                f"state-path = {config.node.state_path!r} cannot be made: {error.strerror}. Give a "
                "folder that this user may write."
            ) from None


def _known(table: Any, keys: Iterable[str], where: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise DeploymentError(f"{where} expected a table, got {table!r}.")
    for key in table:
        if key not in keys:
            raise DeploymentError(
                f"{where} has the unknown key {key!r}.{suggest(key, keys)} Expected some of "
                f"{', '.join(keys)}."
            )
    return dict(table)
