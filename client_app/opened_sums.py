"""Over whom a group has helped to open a round's sum, in a file that outlives its process."""

import json
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock

from task.errors import RoundError, RunDirectoryError
from task.files import write_whole
from task.paths import file_stem

KEPT_ROUNDS = 100


class OpenedSums:
    """One JSON file for each group: the last rounds, and the clients that were in their sums.

    Two sums of one round over different clients tell, by their difference, what those have sent
    that are in one of them alone. The same clients send the same again, or with other noise.

    Args:
        folder: the client's folder for one run; created when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, group: str, server_round: int, survivors: Collection[int]) -> None:
        """Write down that a sum is about to be opened, on disk when this returns.

        Args:
            group: the group.
            server_round: the federated round.
            survivors: the clients in the sum, so far as the group sees them.

        Raises:
            RoundError: one of that round, or of a later one, was opened over other clients.
            RunDirectoryError: the group's file is damaged.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{file_stem(group)}.sums.json"
        with FileLock(file.with_suffix(".lock")):
            opened = _read(file)
            over, last = sorted(survivors), max(opened, default=0)
            if opened.get(server_round, over) != over or (
                server_round < last and server_round not in opened
            ):
                raise RoundError(
                    f"{group} was asked to open a sum of round {server_round}, and has opened one "
                    f"over other clients before (its last one of round {last}): both together "
                    "would disclose updates. Continue the run with the clients that it had."
                )
            opened[server_round] = over
            kept = dict(sorted(opened.items())[-KEPT_ROUNDS:])
            write_whole(file, json.dumps(kept).encode())


def _read(file: Path) -> dict[int, list[int]]:
    if not file.exists():
        return {}
    try:
        content: dict[str, list[int]] = json.loads(file.read_text())
        return {int(server_round): over for server_round, over in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunDirectoryError(
            f"{file} is damaged ({type(error).__name__}: {error}): it says which sums were opened. "
            "Restore it from a copy."
        ) from error
