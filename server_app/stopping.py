"""What is still to be done when a run is told to stop.

`pluralllm run` raises `SystemExit` in the run's own thread, which needs nothing of this. Flower's
processes have a handler of their own for SIGTERM and SIGINT (`flwr stop` sends that): it calls what
was registered with `add_exit_handler`, in the main thread, and ends the process.
A simulation's process dies of SIGTERM at once, as Ray has put a handler in the way: send it SIGINT.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.supercore.exit import add_exit_handler

_to_call: list[Callable[[], None]] = []
_known_to_flower: list[Callable[[], None]] = []


@contextmanager
def called_when_stopped(*saves: Callable[[], None]) -> Iterator[None]:
    """Let Flower call these, in turn, when it ends the process within the block."""
    if not _known_to_flower:  # once in a process: it cannot be taken back
        _known_to_flower.append(_call_all)
        # Flower kills the process five seconds later; this is called before they start.
        add_exit_handler(_call_all, run_before_force_exit=True)
    _to_call.extend(saves)
    try:
        yield
    finally:
        for save in saves:
            _to_call.remove(save)


def _call_all() -> None:
    for save in list(_to_call):
        try:
            save()
        except Exception as error:  # the others are to be called nevertheless
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
