"""One checkpoint on disk: a folder that appears whole or not at all, and says when it is damaged.

`state.json` holds the state and checksums, `arrays.safetensors` the arrays that it names.
"""

import hashlib
import json
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from server_app.plain_state import Packed
from task.errors import RunDirectoryError

_VERSION = 1
_STATE, _ARRAYS = "state.json", "arrays.safetensors"
_attempts = count()  # a signal's handler may write while the thread that it interrupts does


class DamagedError(Exception):
    """A checkpoint is not what was written."""


def write_state(folder: Path, packed: Packed) -> None:
    """Write a state as a folder; on disk, whole, when this returns. One that exists stays.

    Raises:
        RunDirectoryError: it cannot be written; nothing is left of the attempt, and everything that
            was there before still is.
    """
    if folder.exists():
        return
    partial = folder.with_name(f".{os.getpid()}-{next(_attempts)}-{folder.name}")
    arrays = save(packed.arrays)
    state = json.dumps(packed.tree, allow_nan=False)
    content = {
        "version": _VERSION,
        "sha256": {"arrays": _digest(arrays), "state": _digest(state.encode())},
        "state": packed.tree,
    }
    try:
        partial.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # noise may be in there
        partial.mkdir()
        _write(partial / _ARRAYS, arrays)
        _write(partial / _STATE, json.dumps(content, allow_nan=False).encode())
        _sync_folder(partial)
        partial.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.exists():  # written meanwhile
            return
        raise RunDirectoryError(
            f"{folder} cannot be written: {error.strerror or error}. What was saved before is "
            "whole. Make room, or make the folder writable, and continue with run.resume."
        ) from error


def read_state(folder: Path) -> Packed:
    """Return what `write_state` wrote.

    Raises:
        DamagedError: a file is missing or is not what was written.
    """
    try:
        content: dict[str, Any] = json.loads((folder / _STATE).read_bytes())
        version, digests, tree = content["version"], content["sha256"], content["state"]
        arrays = (folder / _ARRAYS).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{_STATE}: {error}") from error
    if version != _VERSION:
        raise DamagedError(f"version {version!r}, expected {_VERSION}")
    if digests != {"arrays": _digest(arrays), "state": _digest(json.dumps(tree).encode())}:
        raise DamagedError("its checksums do not match")
    try:
        return Packed(tree, load(arrays))
    except SafetensorError as error:
        raise DamagedError(f"{_ARRAYS}: {error}") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
