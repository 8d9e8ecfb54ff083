"""Ending what was started: a process, what it started, and what has detached itself from it."""

import os
import signal
from collections.abc import Callable
from functools import partial

import psutil

STOP_SECONDS = 15
RUN_SERVER_APPS = ("flwr-simulation", "flwr-serverapp")  # Flower's programs


def stop_family(variable: str, value: str) -> int:
    """End all processes with a variable of the environment, and below them; return their number.

    Flower's processes detach themselves, and are nobody's children any more once the one that
    started them has died. They keep its environment (Ray's change theirs, but stay below). A
    ServerApp that still runs is told first, and by SIGINT: it then saves what is finished.

    Args:
        variable: set for them alone.
        value: of this family.
    """
    members = [other for other in psutil.process_iter() if _variable(other, variable) == value]
    running = [member for member in members if _runs_server_app(member)]
    for member in running:
        _signal(partial(member.send_signal, signal.SIGINT))
    psutil.wait_procs(running, timeout=STOP_SECONDS)
    family = {process for member in members for process in (member, *_descendants(member))}
    family.discard(psutil.Process(os.getpid()))
    for member in family:
        _signal(member.terminate)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for member in alive:
        _signal(member.kill)
    psutil.wait_procs(alive, timeout=STOP_SECONDS)
    return len(family)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _runs_server_app(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:  # ended
        return False
    return any(program in command for program in RUN_SERVER_APPS)


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):  # ended, or somebody else's
        return None


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
