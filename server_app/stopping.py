"""What is still to be done when a run is told to stop.

`pluralllm run` raises `SystemExit` in the run's own thread. Flower's processes have a handler of
their own for signals (and for `flwr stop`, which sends one): it calls what was registered with
`add_exit_handler`, in the main thread, while the ServerApp may go on in another one.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.supercore.exit import add_exit_handler

_to_call: list[Callable[[], None]] = []
_known_to_flower: list[Callable[[], None]] = []


@contextmanager
def called_when_stopped(save: Callable[[], None]) -> Iterator[None]:
    """Let Flower call `save` when it ends the process within the block."""
    if not _known_to_flower:  # once in a process: it cannot be taken back
        _known_to_flower.append(_call_all)
        # Flower kills the process five seconds later; this is called before they start.
        add_exit_handler(_call_all, run_before_force_exit=True)
    _to_call.append(save)
    try:
        yield
    finally:
        _to_call.remove(save)


def _call_all() -> None:
    for save in reversed(_to_call):
        try:
            save()
        except Exception as error:  # the others are to be called nevertheless
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
