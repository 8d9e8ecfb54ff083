"""Processes of a testbed: started with a log, waited for, killed with all they have started."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

POLL_SECONDS = 0.2
MARK = "PLURALLLM_TESTBED_MACHINE"
"""Environment variable by which a machine's processes are found, however they were started."""


class Daemon:
    """A command that runs until it is told to stop.

    Args:
        name: what messages call it.
        command: the command.
        log: file to which its output is appended.
        mark: value of `MARK` that it and all its children carry.
        environment: variables beside this process's own.
        folder: where it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        mark: str,
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.name, self.log, self.mark = name, log, mark
        self._start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment, MARK: mark, "PYTHONUNBUFFERED": "1"},
                cwd=folder,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has printed since this start."""
        with self.log.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait until its output matches a pattern.

        Raises:
            TimeoutError: it does not in time.
            ChildProcessError: it ended before.
        """
        found: list[re.Match[str]] = []

        def seen() -> bool:
            ended = self.process.poll() is not None  # asked before, so that no output is missed
            if match := re.search(pattern, self.output):
                found.append(match)
            elif ended:
                raise ChildProcessError(
                    f"{self.name} ended with {self.process.returncode} without {pattern!r}:\n"
                    f"{self.output[-3000:]}"
                )
            return bool(found)

        wait_until(seen, seconds, lambda: f"{self.name}: no {pattern!r} in\n{self.output[-3000:]}")
        return found[0]

    def wait(self, seconds: float) -> int:
        """Wait for its end; return the exit status."""
        return self.process.wait(seconds)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to all it has started; wait for their end."""
        family = machine_processes(self.mark)
        for member in family:
            _quietly(lambda member=member: member.send_signal(number))  # type: ignore[misc]
        _, alive = psutil.wait_procs(family, timeout=20)
        for member in alive:
            _quietly(member.kill)
        self.process.wait(20)


def machine_processes(mark: str) -> list[psutil.Process]:
    """Return all processes that carry a mark."""
    return [process for process in psutil.process_iter() if _mark(process) == mark]


def marked_processes(marks: Iterable[str]) -> dict[str, list[psutil.Process]]:
    """Return the processes of several marks, looked up once."""
    found: dict[str, list[psutil.Process]] = {mark: [] for mark in marks}
    for process in psutil.process_iter():
        if (mark := _mark(process)) in found:
            found[str(mark)].append(process)
    return found


def wait_until(
    happened: Callable[[], bool], seconds: float, complaint: str | Callable[[], str]
) -> None:
    """Poll until something has happened.

    Raises:
        TimeoutError: it does not happen in time.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            text = complaint if isinstance(complaint, str) else complaint()
            raise TimeoutError(f"not within {seconds:.0f} s: {text}")
        time.sleep(POLL_SECONDS)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):  # ended, or somebody else's
        return None


def _quietly(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
