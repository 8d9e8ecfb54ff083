"""What unit question has cost each group of a client so far, in files of the client's own.

A release is written down before it is computed, so that a client that is killed has paid for what
it may have sent. What is in the ledger depends on settings and on what the server asked for, never
on answers. It covers the runs of its folder: one, or all that a node takes part in.
"""

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

from task.errors import BudgetError, RunDirectoryError
from task.features import GroupData
from task.files import write_whole
from task.paths import file_stem
from task.privacy_config import PrivacyConfig

TRAIN, EVALUATE = "train", "evaluate"

History = tuple[tuple[float, float, int], ...]
"""Noise multiplier, sample rate and number of steps of every kind of step."""

_VERSION = 1
_BEYOND = 100.0  # an RDP epsilon above which PRV takes long and overflows


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a client lets out of its answers in reply to one message.

    Attributes:
        kind: `train` or `evaluate`.
        server_round: the federated round.
        request: digest of all that the result depends on, see `digest_request`.
        noise_multiplier: noise's standard deviation over the sensitivity.
        sample_rate: probability with which a step draws an episode.
        steps: how many noisy steps it takes.
    """

    kind: str
    server_round: int
    request: str
    noise_multiplier: float
    sample_rate: float
    steps: int


class QuestionLedger:
    """One JSON file for each group, in the client's folder.

    Args:
        folder: the client's, for one run or all; created when something is written.
        config: budget, delta, accountant, and whether noise is secure.
        budget: what errors call the budget.
        over_runs: the ledger of all runs, which is charged first.
    """

    def __init__(
        self,
        folder: Path,
        config: PrivacyConfig,
        *,
        budget: str = "privacy.max-epsilon",
        over_runs: "QuestionLedger | None" = None,
    ) -> None:
        self._folder = folder
        self._config = config
        self._budget = budget
        self._over_runs = over_runs

    def charge(self, group: str, release: Release) -> int:
        """Write a release down, on disk when this returns; compute it only afterwards.

        The same request in the same round is the same release again where noise is seeded: it costs
        nothing. Any other one, and any with secure noise, is an attempt of its own.

        Returns:
            The attempt, from 1: noise must be derived from it, so that no two releases that differ
            carry the same noise.

        Raises:
            BudgetError: it would exceed `privacy.max-epsilon`; nothing was written.
            RunDirectoryError: the group's file is damaged.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file(group).with_suffix(".lock")):
            releases = self.load(group)
            attempts = [
                each.request
                for each in releases
                if (each.kind, each.server_round) == (release.kind, release.server_round)
            ]
            if not self._config.secure_noise and release.request in attempts:
                return attempts.index(release.request) + 1
            self._require_within_budget(group, releases, release)
            if self._over_runs:
                self._over_runs.charge(group, release)
            self._write(group, [*releases, release])
            return len(attempts) + 1

    def epsilon(self, group: str) -> float:
        """Return what a group has spent so far at `privacy.delta`; see `history_epsilon`.

        Raises:
            RunDirectoryError: the group's file is damaged.
        """
        return self._epsilon(self.load(group))

    def load(self, group: str) -> list[Release]:
        """Return a group's releases, oldest first.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        file = self.file(group)
        if not file.exists():
            return []
        try:
            kept = json.loads(file.read_text())
            if (kept["version"], kept["group"]) != (_VERSION, group):
                raise ValueError(f"it is of {kept['group']!r}, version {kept['version']!r}")
            return [_checked(entry) for entry in kept["releases"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"Privacy ledger {file} is damaged ({type(error).__name__}: {error}). Restore it "
                "from a copy: without it nobody knows what this group's answers have cost, so the "
                "group does not train."
            ) from error

    def file(self, group: str) -> Path:
        """Return where a group's releases are."""
        return self._folder / f"{file_stem(group)}.ledger.json"

    def _epsilon(self, releases: Iterable[Release]) -> float:
        steps: Counter[tuple[float, float]] = Counter()
        for each in releases:
            steps[each.noise_multiplier, each.sample_rate] += each.steps
        history = tuple(sorted((*key, number) for key, number in steps.items() if number))
        return history_epsilon(history, self._config.delta, self._config.accountant)

    def _require_within_budget(self, group: str, spent: list[Release], more: Release) -> None:
        budget = self._config.max_epsilon
        if budget and (needed := self._epsilon([*spent, more])) > budget:
            raise BudgetError(
                f"{self._budget} = {budget:g}: to {more.kind} in round {more.server_round} "
                f"would take group {group!r} from epsilon {self._epsilon(spent):.3f} to "
                f"{needed:.3f} (unit question, delta {self._config.delta:g}). Nothing was computed "
                "or spent; keep the predictor as it is, or allow more."
            )

    def _write(self, group: str, releases: Iterable[Release]) -> None:
        """Write a group's file, whole or not at all, and wait until the disk has it."""
        kept = {
            "version": _VERSION,
            "group": group,
            "releases": [asdict(release) for release in releases],
        }
        write_whole(self.file(group), json.dumps(kept, indent=1).encode())


def digest_request(tensors: Mapping[str, Tensor], data: GroupData, *settings: object) -> str:
    """Return a digest of all that a seeded release depends on, for the client's own ledger.

    Two releases with the same noise and anything else changed would tell their difference without
    noise, so parameters alone do not identify one.

    Args:
        tensors: parameters and feature statistics, as the server sent them.
        data: the group's data.
        *settings: all else, of types whose `repr` tells their value.
    """
    digest = hashlib.sha256(repr((data.group, settings)).encode())
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in sorted(tensors.items())}
    arrays |= {
        "": data.answers.shares,
        " lengths": data.answers.lengths,
        " keys": data.question_keys,
        " trainable": data.trainable,
        " features": data.features[data.rows],
    }
    for name, array in arrays.items():
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def question_epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, accountant: str
) -> float:
    """Return the epsilon of so many steps of DP-SGD; see `history_epsilon`.

    Args:
        noise_multiplier: noise's standard deviation over the clipping norm; 0: none.
        sample_rate: probability with which a step draws an episode.
        steps: noisy steps: rounds that a group takes part in, times local steps.
        delta: the delta of (epsilon, delta).
        accountant: `pld` or `rdp`.
    """
    return history_epsilon(((noise_multiplier, sample_rate, steps),), delta, accountant)


@lru_cache(maxsize=1024)
def history_epsilon(history: History, delta: float, accountant: str) -> float:
    """Return the epsilon at delta of Poisson-sampled Gaussian steps, by Opacus' accountants.

    Neighbours: with or without what one episode contributes, in every round the episode that holds
    the question. For one answer in another's place (two such steps) it is at most twice this, at
    delta * (1 + exp(epsilon)).

    Args:
        history: what was released.
        delta: the delta of (epsilon, delta).
        accountant: `rdp` (arXiv 1908.10530), or `pld`: Opacus' PRV (arXiv 2106.02848), an upper
            bound within 0.02; where RDP's epsilon is above 100, PRV's overflows and that is given.

    Returns:
        Infinity where a step has no noise, 0 where there was none.
    """
    # Here, because it takes a second and sets up logging, and not every run needs it.
    from opacus.accountants import PRVAccountant, RDPAccountant

    steps = [(noise, rate, number) for noise, rate, number in history if number]
    if not steps:
        return 0.0
    epsilon = math.inf
    # Numbers overflow where PRV looks beyond what matters; RDP wishes for other orders.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        for kind in (RDPAccountant, PRVAccountant):
            if kind is RDPAccountant or (accountant == "pld" and epsilon <= _BEYOND):
                chosen = kind()
                chosen.history = list(steps)
                epsilon = float(chosen.get_epsilon(delta))
    return epsilon


def _checked(entry: dict[str, Any]) -> Release:
    """Return an entry of a file as a release."""
    release = Release(**entry)
    for item in fields(Release):
        value = getattr(release, item.name)
        if type(value) not in ((int, float) if item.type is float else (item.type,)):
            raise ValueError(f"{item.name} = {value!r}")
    noise, rate = release.noise_multiplier, release.sample_rate
    if not (math.isfinite(noise) and noise >= 0 and 0 < rate <= 1 and release.steps >= 0):
        raise ValueError(f"impossible release {entry}")
    return release
