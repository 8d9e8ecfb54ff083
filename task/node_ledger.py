"""What all runs together have cost each group of a node: what its owner's `max-epsilon` is about.

Files of the node's own, in its `state-path`, of no run: nothing that a server chooses, neither its
key of a run nor its settings, makes an empty one. They cover the units whose cost is known before
training starts; unit question charges a `QuestionLedger` over all runs as it goes.

- `member`: every distinct release of histograms is charged once, and all are composed by their
  privacy loss distributions.
- `client`: a run is charged with the whole of its budget, and budgets (epsilons and deltas) add up.
  The server adds that noise and keeps that account, so this holds where the server is honest.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from task.errors import BudgetError, RunDirectoryError
from task.files import write_whole
from task.paths import file_stem
from task.respondent_accounting import histogram_event

FOLDER = "all-runs"
"""Below a node's `state-path`: what it keeps of no single run."""

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class MemberRelease:
    """Noisy histograms of a group.

    Attributes:
        release: digest of all that was released, the noise's key among it.
        noise: `privacy.histogram-noise`.
        multiplier: `privacy.noise-multiplier`.
        answered: how many of the questions one respondent may have answered.
    """

    release: str
    noise: str
    multiplier: float
    answered: int


@dataclass(frozen=True, kw_only=True)
class ClientRun:
    """A run of unit client.

    Attributes:
        release: the run's key.
        epsilon: its budget.
    """

    release: str
    epsilon: float


Charge = MemberRelease | ClientRun


class NodeLedger:
    """One JSON file for each group and unit.

    Args:
        folder: the node's, for all runs; created when something is written.
        max_epsilon: what a group may spend.
        max_delta: the delta at which that counts.
    """

    def __init__(self, folder: Path, max_epsilon: float, max_delta: float) -> None:
        self._folder = folder
        self._max_epsilon = max_epsilon
        self._max_delta = max_delta

    def charge(self, group: str, charge: Charge) -> None:
        """Write a cost down, on disk when this returns; one that is known costs nothing.

        Raises:
            BudgetError: it would exceed `max-epsilon`; nothing was written.
            RunDirectoryError: the group's file is damaged.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self.file(group, type(charge))
        with FileLock(file.with_suffix(".lock")):
            spent = self._load(file, group, type(charge))
            if charge.release in {each.release for each in spent}:
                return
            needed = self._epsilon([*spent, charge])
            if needed > self._max_epsilon:
                raise BudgetError(
                    f"max-epsilon = {self._max_epsilon:g} of this node: this run would take group "
                    f"{group!r} from epsilon {self._epsilon(spent):.3f} to {needed:.3f} over all "
                    f"its runs (delta {self._max_delta:g}). Nothing was computed or spent."
                )
            kept = {
                "version": _VERSION,
                "group": group,
                "charges": [asdict(each) for each in [*spent, charge]],
            }
            write_whole(file, json.dumps(kept, indent=1).encode())

    def file(self, group: str, kind: type[Charge]) -> Path:
        """Return where a group's charges are."""
        unit = "member" if kind is MemberRelease else "client"
        return self._folder / f"{file_stem(group)}.{unit}.json"

    def _load(self, file: Path, group: str, kind: type[Charge]) -> list[Charge]:
        if not file.exists():
            return []
        try:
            kept: dict[str, Any] = json.loads(file.read_text())
            if (kept["version"], kept["group"]) != (_VERSION, group):
                raise ValueError(f"it is of {kept['group']!r}, version {kept['version']!r}")
            return [kind(**entry) for entry in kept["charges"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"Privacy ledger {file} is damaged ({type(error).__name__}: {error}). Restore it "
                "from a copy: without it nobody knows what this group's answers have cost."
            ) from error

    def _epsilon(self, charges: Iterable[Charge]) -> float:
        charges = list(charges)
        if not charges:
            return 0.0
        if isinstance(charges[0], ClientRun):
            return math.fsum(each.epsilon for each in charges if isinstance(each, ClientRun))
        from dp_accounting import pld  # takes two seconds to import

        accountant = pld.PLDAccountant()
        for each in charges:
            if isinstance(each, MemberRelease):
                accountant.compose(histogram_event(each.noise, each.multiplier, each.answered))
        return float(accountant.get_epsilon(self._max_delta))
