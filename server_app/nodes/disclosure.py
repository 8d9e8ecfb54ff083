"""What a node says it holds, in reply to `describe`: read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from task import records
from task.errors import PopulationError
from task.features import FeatureSums
from task.population import PopulationAnswers
from task.roles import Role

MAX_QUESTIONS, MAX_ROWS = 100_000, 1e9
"""Most questions and feature rows of a group."""
MAX_NAME, MAX_FEATURE = 200, 1e6
"""Longest name, and largest root mean square of a feature: its sums stay finite in float32."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class Holding:
    """What a node discloses of one group.

    Attributes:
        group: its name.
        role: `train` or `held-out`.
        question_keys: (Q,) int64, hashes of its questions.
        feature_sums: of a training group.
        answers: of a training group, if it discloses them.
    """

    group: str
    role: Role
    question_keys: NDArray[np.int64]
    feature_sums: FeatureSums | None
    answers: PopulationAnswers | None


@dataclass(frozen=True)
class Disclosure:
    """What a node discloses.

    Attributes:
        fingerprint: of its encoder.
        num_partitions: nodes of the simulation; 0 elsewhere.
        holdings: its groups.
    """

    fingerprint: str
    num_partitions: int
    holdings: tuple[Holding, ...]

    @classmethod
    def read(cls, content: RecordDict) -> "Disclosure":
        """Read a reply.

        Raises:
            PopulationError: it is malformed.
        """
        try:
            return cls._read(content)
        except PopulationError:
            raise
        except Exception as error:  # what is in it is a stranger's, and fails in all sorts of ways
            raise PopulationError(
                f"what it says it holds cannot be read ({type(error).__name__}: {error})"
            ) from error

    @classmethod
    def _read(cls, content: RecordDict) -> "Disclosure":
        holdings = content.config_records[records.HOLDINGS]
        groups = _names(holdings[records.GROUPS])
        (fingerprint,) = _names([holdings[records.FINGERPRINT]])
        roles = cast(list[Role], holdings[records.ROLES])
        if wrong := [role for role in roles if role not in ("train", "held-out")]:
            raise PopulationError(f"it has the role {wrong[0]!r}: expected 'train' or 'held-out'")
        if len(set(groups)) < len(groups):
            raise PopulationError("it names a group twice: expected every group once")
        keys = content.array_records[records.HELD_QUESTIONS] if groups else ArrayRecord()
        trained = [group for group, role in zip(groups, roles, strict=True) if role == "train"]
        sums = dict(zip(trained, _feature_sums(content), strict=True)) if groups else {}
        answers: dict[str, PopulationAnswers] = {}
        if disclosed := content.array_records.get(records.ANSWERS):
            answers = dict(zip(trained, _answers(disclosed, len(trained)), strict=True))
        return cls(
            fingerprint,
            int(cast(int, holdings[records.NUM_PARTITIONS])),
            tuple(
                Holding(group, role, _keys(keys, index, group), sums.get(group), answers.get(group))
                for index, (group, role) in enumerate(zip(groups, roles, strict=True))
            ),
        )


def _names(values: object) -> list[str]:
    """Return names that can be printed in a line."""
    if not isinstance(values, list):
        raise PopulationError(f"its names are of type {type(values).__name__}: expected a list")
    for value in values:
        if not (isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()):
            raise PopulationError(
                f"it uses the name {str(value)[:MAX_NAME]!r}: expected a text of 1 to {MAX_NAME} "
                "printable characters"
            )
    return values


def _keys(keys: ArrayRecord, index: int, group: str) -> NDArray[np.int64]:
    found: NDArray[Any] = keys[str(index)].numpy()
    if found.dtype != np.int64 or found.ndim != 1 or not len(found):
        raise PopulationError(
            f"its question keys of {group!r} are {found.dtype} of shape {found.shape}: expected a "
            "list of int64"
        )
    if len(found) > MAX_QUESTIONS:
        raise PopulationError(
            f"it has {len(found)} questions of {group!r}: expected at most {MAX_QUESTIONS}"
        )
    return found


def _feature_sums(content: RecordDict) -> Sequence[FeatureSums]:
    """Return the sums of each of a node's training groups."""
    arrays = content.array_records[records.FEATURE_SUMS]
    columns = (records.SUM_COUNT, records.SUM_TOTAL, records.SUM_SQUARES)
    count_g, total_gd, squares_gd = (arrays[column].numpy() for column in columns)
    shapes = count_g.shape, total_gd.shape, squares_gd.shape
    if len(count_g) and (
        count_g.ndim != 1 or total_gd.ndim != 2 or total_gd.shape != squares_gd.shape
    ):
        raise PopulationError(
            f"its feature sums have shapes {shapes}: expected (groups,) and twice (groups, d)"
        )
    sums = [
        FeatureSums(float(count), total.astype(np.float64), squares.astype(np.float64))
        for count, total, squares in zip(count_g, total_gd, squares_gd, strict=True)
    ]
    if not all(_are_sums(each) for each in sums):
        raise PopulationError(
            f"its feature sums are no sums of 1 to {MAX_ROWS:g} finite features of at most "
            f"{MAX_FEATURE:g}"
        )
    return sums


def _are_sums(sums: FeatureSums) -> bool:
    """Return whether there are features with these sums, none of them too large."""
    if not (1 <= sums.count <= MAX_ROWS and len(sums.total)):
        return False
    with np.errstate(all="ignore"):  # what is not finite compares as false
        within = (sums.squares >= 0) & (sums.squares <= sums.count * MAX_FEATURE**2)
        possible = np.square(sums.total) <= sums.count * sums.squares * (1 + ROUNDING) + ROUNDING
    return bool(np.isfinite(sums.total).all() and (within & possible).all())


def _answers(disclosed: ArrayRecord, number: int) -> list[PopulationAnswers]:
    """Return the answers of each of a node's training groups."""
    groups: list[dict[str, NDArray[Any]]] = [{} for _ in range(number)]
    for key, array in disclosed.items():
        index, name = key.split(".")
        groups[int(index)][name] = array.numpy()
    answers = [PopulationAnswers.from_arrays(arrays) for arrays in groups]
    if not all(_are_distributions(each) for each in answers):
        raise PopulationError(
            "it disclosed answers that are no distributions: expected shares from 0 to 1, in all "
            "at most 1 a question"
        )
    return answers


def _are_distributions(answers: PopulationAnswers) -> bool:
    """Return whether these are sums of as many distributions as they say."""
    keys, counts, starts, totals = answers.keys, answers.counts, answers.starts, answers.totals
    if any(each.ndim != 1 for each in (keys, counts, starts, totals)) or not len(keys):
        return False
    lengths = np.diff(starts)
    if not (
        len(keys) == len(counts) == len(lengths) <= MAX_QUESTIONS
        and starts[0] == 0
        and starts[-1] == len(totals)
        and (lengths > 0).all()
        and (np.diff(keys) > 0).all()
        and (counts > 0).all()
        and counts.sum() <= MAX_QUESTIONS
        and np.isfinite(totals).all()
        and (totals >= 0).all()
    ):
        return False
    return bool((np.add.reduceat(totals, starts[:-1]) <= counts * (1 + ROUNDING)).all())
