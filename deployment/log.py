"""A supervised process's log: every line to the console and, with its time, to rotated files."""

import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

FILE_BYTES = 10_000_000
FILES = 7
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ROUTINE = re.compile(r"\[uvicorn\.access\].* 200$")
"""A request that went well; every node asks for messages every three seconds."""


@dataclass(frozen=True)
class ProcessLog:
    """Where lines go.

    Attributes:
        output: takes the lines of the process.
        say: takes those of the command that runs it, which begin with `pluralllm:`.
    """

    output: Callable[[str], None]
    say: Callable[[str], None]


def process_log(file: Path) -> ProcessLog:
    """Open a log file: at most eight of 10 MB, the older ones numbered.

    Requests that went well are left out of it, and of the console. Flower's own `--log-file` leaves
    out what the apps print, and rotates by age alone.
    """
    logger = logging.Logger(str(file))
    handler = RotatingFileHandler(file, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)

    def output(line: str) -> None:
        plain = COLOUR.sub("", line)
        if ROUTINE.search(plain):
            return
        logger.info("%s", plain)
        with suppress(OSError, ValueError):  # the file has it: no reason to end what is supervised
            print(line if sys.stdout.isatty() else plain, flush=True)

    return ProcessLog(output, lambda line: output(f"pluralllm: {line}"))
