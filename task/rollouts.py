"""Responses to score: in memory, in a file, and cut into batches of bounded size."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from task.comparisons import Against, comparisons
from task.errors import RewardError, SurveyError
from task.files import write_whole

COLUMNS = ("prompt", "response")
AGAINST = "against"


@dataclass(frozen=True)
class Rollouts:
    """Prompts, a response to each, and what each response is compared with.

    Attributes:
        prompts: B texts.
        responses: B texts.
        against: for each response what it is compared with; None: nothing (`task.comparisons`).
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    against: tuple[tuple[str, ...], ...] | None = None

    @classmethod
    def of(
        cls, prompts: Sequence[str], responses: Sequence[str], against: Against | None = None
    ) -> "Rollouts":
        """Return checked rollouts.

        Raises:
            RewardError: there are none, lengths differ, a text is empty or no Unicode, or a
                response has nothing to be compared with.
        """
        comparisons(prompts, responses, against)
        if not len(prompts):
            raise RewardError("There are no responses to score: expected one or more.")
        others = None
        if against is not None:
            others = tuple((a,) if isinstance(a, str) else tuple(a) for a in against)
        rollouts = cls(tuple(prompts), tuple(responses), others)
        for row in range(len(rollouts)):
            rollouts._num_bytes(row)
        return rollouts

    def __len__(self) -> int:
        return len(self.responses)

    def batches(self, most: int, most_bytes: int) -> Iterator["Rollouts"]:
        """Yield consecutive rollouts, each time so many of so many bytes of text at most.

        A single one that is larger comes alone.
        """
        start, size = 0, 0
        for row in range(len(self)):
            added = self._num_bytes(row)
            if row > start and (row - start == most or size + added > most_bytes):
                yield self._between(start, row)
                start, size = row, 0
            size += added
        yield self._between(start, len(self))

    def _between(self, start: int, end: int) -> "Rollouts":
        others = None if self.against is None else self.against[start:end]
        return Rollouts(self.prompts[start:end], self.responses[start:end], others)

    def _num_bytes(self, row: int) -> int:
        others = () if self.against is None else self.against[row]
        try:
            return sum(
                len(text.encode()) for text in (self.prompts[row], self.responses[row], *others)
            )
        except UnicodeEncodeError as error:
            raise RewardError(
                f"Response {row}, or its prompt or what it is compared with, has a character that "
                f"is no Unicode ({error.reason}): expected texts that UTF-8 can hold."
            ) from None


def read_rollouts(path: str) -> Rollouts:
    """Read a CSV, JSON Lines or Parquet file: `prompt`, `response`, and maybe `against`.

    `against` is a text, or a list of texts: in CSV files a JSON list.

    Raises:
        RewardError: the file cannot be read, lacks a column, or a row is malformed (it is named).
    """
    from task.sources.files import read_frame, require_columns  # pandas takes a second to load

    where = f"score.rollouts = {path!r}"
    if not Path(path).is_file():
        raise RewardError(f"{where}: there is no such file.")
    try:
        frame = read_frame(path)
        require_columns(frame, COLUMNS, where)
    except SurveyError as error:
        raise RewardError(str(error)) from None
    if frame.empty:
        raise RewardError(f"{where} has no row: expected a response in each.")
    prompts, responses = (_texts(frame[column].tolist(), column, where) for column in COLUMNS)
    if AGAINST not in frame:
        return Rollouts.of(prompts, responses)
    against = [
        _against(cell, f"{where}, row {row}") for row, cell in enumerate(frame[AGAINST], start=1)
    ]
    for row, one in enumerate(zip(prompts, responses, against, strict=True), start=1):
        try:
            comparisons([one[0]], [one[1]], [one[2]])
        except RewardError as error:  # which counts from 0, and knows no file
            raise RewardError(f"{where}, row {row}: {error}") from None
    return Rollouts.of(prompts, responses, against)


def write_scored(
    file: Path, rollouts: Rollouts, scores_B: Sequence[float], by_group: dict[str, list[float]]
) -> None:
    """Write rollouts with their scores as JSON Lines, whole or not at all.

    Args:
        file: is replaced.
        rollouts: B rollouts.
        scores_B: one for each.
        by_group: group to its scores.
    """
    lines = []
    for row, score in enumerate(scores_B):
        entry: dict[str, Any] = {
            "prompt": rollouts.prompts[row],
            "response": rollouts.responses[row],
        }
        if rollouts.against is not None:
            entry[AGAINST] = list(rollouts.against[row])
        entry["score"] = score
        entry["scores"] = {group: scores[row] for group, scores in by_group.items()}
        lines.append(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(file, "".join(lines).encode())


def _texts(cells: list[Any], column: str, where: str) -> list[str]:
    for row, cell in enumerate(cells, start=1):
        if not isinstance(cell, str) or not cell.strip():
            found = "empty" if cell is None or cell != cell or cell == "" else repr(cell)
            raise RewardError(f"{where}, row {row}: {column} is {found}, expected a text.")
    return cells


def _against(cell: Any, where: str) -> tuple[str, ...]:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return (cell,)  # a text that begins like a list
    if isinstance(cell, str):
        return (cell,)
    others = cell.tolist() if isinstance(cell, np.ndarray) else cell
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise RewardError(f"{where}: against is {cell!r}, expected a text or a list of texts.")
    return tuple(others)
