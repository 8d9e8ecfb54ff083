"""Files that a power cut leaves whole: as they were, or as they were to be."""

import os
from itertools import count
from pathlib import Path

_attempts = count()  # a signal's handler may write while the thread that it interrupts does


def write_whole(file: Path, content: bytes) -> None:
    """Replace a file, whole or not at all, and wait until the disk has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.getpid()}-{next(_attempts)}-{file.name}")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(file.parent)


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file, or which names a folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
