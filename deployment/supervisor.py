"""Keeps one Flower process running: starts it again when it dies, and ends all of it when told."""

import random
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from filelock import FileLock, Timeout

from deployment.processes import STOP_SECONDS, stop_family
from task.errors import DeploymentError

SUPERVISED = "PLURALLLM_SUPERVISED"
"""Variable of the environment by which a supervisor knows the processes that are its own."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REMEMBERED_LINES = 60
STOP = "stop"


@dataclass
class BackOff:
    """Seconds to wait before each start: they double, up to a cap, and start anew after a good run.

    Attributes:
        first: before the second start.
        cap: never longer, jitter aside.
        healthy: a process that has run so long counts as one that worked.
        jitter: shares of a wait by which it may be longer or shorter, so that the nodes of a
            federation do not all return in the same second.
        draw: a number between 0 and 1.
    """

    first: float = 2.0
    cap: float = 30.0
    healthy: float = 90.0
    jitter: float = 0.2
    draw: Callable[[], float] = random.random
    _next: float = field(init=False, default=0.0)

    def after(self, ran: float) -> float:
        """Return how long to wait after a process that ran for so many seconds."""
        if self._next == 0.0 or ran >= self.healthy:
            self._next = self.first
        wait, self._next = self._next, min(self._next * 2, self.cap)
        return wait * (1 + self.jitter * (2 * self.draw() - 1))


@dataclass(frozen=True)
class Ended:
    """How a supervised process ended by itself.

    Attributes:
        status: its exit status, negative for a signal.
        seconds: how long it ran.
        lines: the last of what it printed.
    """

    status: int
    seconds: float
    lines: tuple[str, ...]


class Supervisor:
    """Runs commands in the foreground until SIGTERM, SIGINT or SIGHUP, again and again.

    Args:
        environment: of the process.
        folder: belongs to this process alone (`sole_owner`); what a supervisor that was killed has
            left running there is ended first.
        output: takes every line that it prints.
        say: takes the supervisor's own words.
        explain: says why a process may have ended, and what to do.
        started: called in a thread after each start; the event is set when the process has ended.
        back_off: waits between starts.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        *,
        output: Callable[[str], None],
        say: Callable[[str], None],
        explain: Callable[[Ended], str],
        started: Callable[[threading.Event], None] | None = None,
        back_off: BackOff | None = None,
    ) -> None:
        self._environment = {**environment, SUPERVISED: str(folder)}
        self._folder = folder
        self._output = output
        self._say = say
        self._explain = explain
        self._started = started
        self._back_off = back_off or BackOff()
        self._events: SimpleQueue[str | int] = SimpleQueue()  # STOP, or an exit status
        self._failure = ""

    def run(self, command: Callable[[], Sequence[str]]) -> None:
        """Start the process, and again whenever it has ended, until told to stop.

        Args:
            command: gives the program and its arguments, before each start.

        Raises:
            DeploymentError: the program does not exist, or `fail` was called.
        """
        with self._stopped_by_signals():
            if left := stop_family(SUPERVISED, str(self._folder)):
                self._say(f"Ended {left} process(es) that an earlier start had left behind.")
            try:
                self._supervise(command)
            finally:
                stop_family(SUPERVISED, str(self._folder))

    def fail(self, reason: str) -> None:
        """End the process and this supervisor, from another thread, as it cannot be of use."""
        self._failure = reason
        self._events.put(STOP)

    def _supervise(self, command: Callable[[], Sequence[str]]) -> None:
        while True:
            ended = self._run_once(command())
            if ended is None:
                self._stopped()
                return
            wait = self._back_off.after(ended.seconds)
            self._say(f"{self._explain(ended)} Next start in {wait:.0f} s.")
            if self._told_to_stop(wait):
                self._stopped()
                return

    def _stopped(self) -> None:
        if self._failure:
            raise DeploymentError(self._failure)
        self._say("Stopped.")

    def _run_once(self, command: Sequence[str]) -> Ended | None:
        """Run the process once; None when it was told to stop."""
        began = time.monotonic()
        lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        try:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on
            )
        except OSError as error:
            raise DeploymentError(
                f"{command[0]} cannot be started: {error.strerror}. Is Flower installed in "
                "this environment? `pluralllm doctor` tells."
            ) from None
        over = threading.Event()
        reader = threading.Thread(target=self._read, args=(process, lines), daemon=True)
        waiter = threading.Thread(
            target=lambda: self._events.put(process.wait()), name="wait", daemon=True
        )
        reader.start()
        waiter.start()
        if self._started:
            threading.Thread(target=self._started, args=(over,), daemon=True).start()
        event = self._events.get()
        over.set()
        stop_family(SUPERVISED, str(self._folder))  # all of it; what a dead one started, too
        waiter.join()
        reader.join(timeout=STOP_SECONDS)  # its pipe is closed: nobody is left to write
        if event == STOP:
            self._drain()
            return None
        return Ended(int(event), time.monotonic() - began, tuple(lines))

    def _read(self, process: subprocess.Popen[str], lines: deque[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            try:
                self._output(lines[-1])
            except (OSError, ValueError):  # a full disk, a console that was closed: the line is
                continue  # lost; were the pipe no longer read, the process would stand still

    def _told_to_stop(self, seconds: float) -> bool:
        try:
            self._events.get(timeout=seconds)
        except Empty:
            return False
        return True

    def _drain(self) -> None:
        while not self._events.empty():
            self._events.get()

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Turn signals into a word to the supervisor: it must end what it started, whatever comes.

        A `SimpleQueue` may be filled from a signal's handler.
        """

        def stop(_number: int, _frame: object) -> None:
            self._events.put(STOP)

        before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Keep a folder to this process while the block runs.

    Raises:
        DeploymentError: another process has it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DeploymentError(
            f"{folder} is in use by another `pluralllm deploy` process. Stop that one first."
        ) from None
    try:
        yield
    finally:
        lock.release()
