"""The privacy ledger: every release, on disk before it is made, so that no crash forgets a cost."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from task.errors import RunDirectoryError

UPDATE, SCORES = "update", "scores"
"""What is released: a noisy mean of updates, or noisy scores."""


@dataclass(frozen=True)
class Release:
    """One release of noisy values.

    Attributes:
        what: `UPDATE` or `SCORES`.
        server_round: the federated round.
        attempt: from 0; a round that is done again with something else is another release, with
            other noise.
        digest: of the parameters and settings that it was computed from.
    """

    what: str
    server_round: int
    attempt: int
    digest: str


class Ledger:
    """The releases so far, a line of a file each.

    Seeded noise makes a release that is repeated from the same parameters the same release, which
    tells nothing new: it is charged once. With secure noise everything is charged, and so is what
    another process repeats, that of a resumed run: after a kill other clients may answer, and with
    the same noise the two releases would tell their difference. A repetition is a new attempt, with
    other noise.

    Args:
        file: where the lines are; None: in memory only.
        repeats: whether the same release comes out the same when it is repeated.

    Raises:
        RunDirectoryError: the file is damaged.
    """

    def __init__(self, file: Path | None, *, repeats: bool) -> None:
        self._file = file
        self._repeats = repeats
        self.releases: list[Release] = _read(file) if file else []
        self._num_earlier = len(self.releases)  # of the run before it was resumed

    def count(self, what: str) -> int:
        """Return how many releases of a kind were charged."""
        return sum(release.what == what for release in self.releases)

    def count_repeated(self, what: str) -> int:
        """Return how many releases of a kind are of a round that had been released before."""
        return sum(release.what == what and release.attempt > 0 for release in self.releases)

    def find(self, what: str, server_round: int, digest: str) -> Release | None:
        """Return the release that a repetition would be, if it costs nothing."""
        if not self._repeats:
            return None
        for release in self.releases[self._num_earlier :]:
            key = (release.what, release.server_round, release.digest)
            if key == (what, server_round, digest):
                return release
        return None

    def require(self, number: int) -> None:
        """Raise a `RunDirectoryError` if there are fewer releases than so many."""
        if len(self.releases) < number:
            raise RunDirectoryError(
                f"{self._file} has {len(self.releases)} releases, expected {number} or more: "
                "privacy that was spent must not be forgotten. Restore the file."
            )

    def charge(self, what: str, server_round: int, digest: str) -> Release:
        """Write a release down, and return it; nothing may be released before."""
        if known := self.find(what, server_round, digest):
            return known
        earlier = [r for r in self.releases if (r.what, r.server_round) == (what, server_round)]
        release = Release(what, server_round, len(earlier), digest)
        if self._file:
            with self._file.open("a") as stream:
                stream.write(json.dumps(asdict(release)) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            folder = os.open(self._file.parent, os.O_RDONLY)  # the file may be new
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self.releases.append(release)
        return release


def digest_of(parameters_P: Tensor, settings: str = "") -> str:
    """Return a digest of a (P,) parameter vector and of what else a release depends on."""
    content = parameters_P.detach().cpu().numpy().tobytes() + settings.encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _read(file: Path) -> list[Release]:
    """Read a ledger; a last line that a kill has cut off was not released, and is taken out."""
    if not file.exists():
        return []
    text = file.read_text()
    whole, newline, torn = text.rpartition("\n")
    if torn:
        with file.open("r+") as stream:
            stream.truncate(len((whole + newline).encode()))
    releases = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            releases.append(Release(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise RunDirectoryError(
                f"{file}, line {number} is damaged ({error}): what was released cannot be told. "
                "Restore the file; privacy that was spent must not be forgotten."
            ) from error
    return releases
