"""The key from which a machine derives noise that must stay the same from run to run."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from task.errors import UserError

KEY_FILE = "answer-noise.key"
KEY_BYTES = 32


def noise_key(folder: Path) -> bytes:
    """Return the 32 bytes of the folder's key file, created by whoever asks first.

    Unlike the features beside it, the file is no copy of anything: without it the next run draws
    new noise for the same answers, a release more; whoever reads it can take the noise off. So all
    processes that read the same group's answers must have the same folder.

    Raises:
        UserError: the file cannot be created, others may read it, or it holds something else.
    """
    file = folder / KEY_FILE
    try:
        if not file.exists():
            _create(file)
        mode, key = file.stat().st_mode & 0o777, file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file}: the key of privacy.secure-noise cannot be created or read "
            f"({error.strerror}). Set privacy.noise-key-directory, or a node's state-path, "
            "to a folder of your own."
        ) from error
    if mode & 0o077:
        raise UserError(
            f"{file} has mode {mode:04o}: expected 0600, as whoever can read it can take the noise "
            "off. Delete it if others may have read it (the noise is then drawn anew), else chmod "
            "it."
        )
    if len(key) != KEY_BYTES:
        raise UserError(
            f"{file} has {len(key)} bytes: expected a key of {KEY_BYTES}. Restore it from a copy, "
            "or delete it (the noise is then drawn anew)."
        )
    return key


def _create(file: Path) -> None:
    """Write a key under another name and link it: nobody sees half of it, and the first wins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".key")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(os.urandom(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(name, file)
    finally:
        Path(name).unlink()
