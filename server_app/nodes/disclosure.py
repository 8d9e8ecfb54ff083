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
        groups = cast(list[str], holdings[records.GROUPS])
        roles = cast(list[Role], holdings[records.ROLES])
        if wrong := [role for role in roles if role not in ("train", "held-out")]:
            raise PopulationError(f"it has the role {wrong[0]!r}: expected 'train' or 'held-out'")
        keys = content.array_records[records.HELD_QUESTIONS] if groups else ArrayRecord()
        trained = [group for group, role in zip(groups, roles, strict=True) if role == "train"]
        sums = dict(zip(trained, _feature_sums(content), strict=True)) if groups else {}
        answers: dict[str, PopulationAnswers] = {}
        if disclosed := content.array_records.get(records.ANSWERS):
            answers = dict(zip(trained, _answers(disclosed, len(trained)), strict=True))
        return cls(
            str(holdings[records.FINGERPRINT]),
            cast(int, holdings[records.NUM_PARTITIONS]),
            tuple(
                Holding(group, role, _keys(keys, index, group), sums.get(group), answers.get(group))
                for index, (group, role) in enumerate(zip(groups, roles, strict=True))
            ),
        )


def _keys(keys: ArrayRecord, index: int, group: str) -> NDArray[np.int64]:
    found: NDArray[Any] = keys[str(index)].numpy()
    if found.dtype != np.int64 or found.ndim != 1 or not len(found):
        raise PopulationError(
            f"its question keys of {group!r} are {found.dtype} of shape {found.shape}: expected a "
            "list of int64"
        )
    return found


def _feature_sums(content: RecordDict) -> Sequence[FeatureSums]:
    """Return the sums of each of a node's training groups."""
    arrays = content.array_records[records.FEATURE_SUMS]
    columns = (records.SUM_COUNT, records.SUM_TOTAL, records.SUM_SQUARES)
    sums = [
        FeatureSums(float(count), total, squares)
        for count, total, squares in zip(*(arrays[c].numpy() for c in columns), strict=True)
    ]
    for each in sums:
        finite = np.isfinite(each.total).all() and np.isfinite(each.squares).all()
        if not (each.count > 0 and finite and each.total.shape == each.squares.shape):
            raise PopulationError("its feature sums are not finite, or of no questions")
    return sums


def _answers(disclosed: ArrayRecord, number: int) -> list[PopulationAnswers]:
    """Return the answers of each of a node's training groups."""
    groups: list[dict[str, NDArray[Any]]] = [{} for _ in range(number)]
    for key, array in disclosed.items():
        index, name = key.split(".")
        groups[int(index)][name] = array.numpy()
    answers = [PopulationAnswers.from_arrays(arrays) for arrays in groups]
    if any(not np.isfinite(each.totals).all() or (each.totals < 0).any() for each in answers):
        raise PopulationError("it disclosed answers that are negative or not finite")
    return answers
