"""Files and folders of a deployment: written whole or not at all, secrets for their owner only."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from task.errors import DeploymentError

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644


def make_folder(path: Path) -> None:
    """Create a folder that only its owner may enter; one that is there stays as it is."""
    if path.is_dir():
        return
    path.mkdir(parents=True)
    path.chmod(0o700)  # whatever the umask is


def write_file(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write a file, atomically; a secret one never exists readable for others."""
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    mode = SECRET_MODE if secret else PUBLIC_MODE
    partial.unlink(missing_ok=True)  # of a process that was killed and had the same id
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def write_toml(path: Path, content: Mapping[str, Any], comment: str) -> None:
    """Write a TOML file below a comment."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    write_file(path, f"{lines}\n{tomli_w.dumps(content)}".encode())


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        DeploymentError: it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeploymentError(f"{path} is not valid TOML: {error}") from None
