"""A cell's result and its files; a cell counts once its `cell.json` is there."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comparison.plan import Cell
from server_app.run_directory import read_json
from task.errors import RunDirectoryError
from task.metrics import GroupScores
from task.roles import Role


@dataclass(frozen=True)
class Point:
    """Where a method stands after a round.

    Attributes:
        round: federated rounds or epochs; 0 is before training.
        optimizer_steps: one after another, of one model.
        episodes: trained on so far, all groups together.
        seconds: of training, evaluation left out.
        megabytes: sent so far, in both directions.
        groups: alignment score of each group.
    """

    round: int
    optimizer_steps: int
    episodes: int
    seconds: float
    megabytes: float
    groups: Mapping[str, float]


@dataclass(frozen=True)
class CellResult:
    """What a cell gives.

    Attributes:
        roles: group to role.
        scores: group to final scores.
        points: the way there; empty for what does not learn step by step.
        few_shot: context size to group to alignment score; empty for what has none.
        seconds: the whole cell, evaluation included.
        privacy: what a federated cell's run promises; None: nothing.
    """

    roles: Mapping[str, Role]
    scores: Mapping[str, GroupScores]
    points: Sequence[Point]
    few_shot: Mapping[int, Mapping[str, float]]
    seconds: float
    privacy: Mapping[str, Any] | None = None


class CellStore:
    """The cells below a comparison's directory.

    Args:
        directory: the comparison's.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "cells"

    def has(self, key: str) -> bool:
        """Return whether a cell is finished."""
        return (self._folder / key / "cell.json").is_file()

    def start(self, key: str) -> Path:
        """Return an empty folder for a cell; what an interrupted attempt left is removed."""
        folder = self._folder / key
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def run_folder(self, key: str) -> Path:
        """Return where a federated cell's run directory is."""
        return self._folder / key / "run"

    def finish(self, cell: Cell, result: CellResult) -> None:
        """Write a cell's result, whole or not at all."""
        content = {
            "method": cell.method,
            "seed": cell.config.run.seed,
            "fold": cell.fold,
            "roles": dict(result.roles),
            "scores": {
                group: scores.to_metrics(disclosed=False) for group, scores in result.scores.items()
            },
            "points": [asdict(point) for point in result.points],
            "few_shot": {str(size): dict(groups) for size, groups in result.few_shot.items()},
            "seconds": result.seconds,
            "privacy": result.privacy,
        }
        file = self._folder / cell.key / "cell.json"
        partial = file.with_name(f".{os.getpid()}-cell.json")
        partial.write_text(json.dumps(content, allow_nan=False) + "\n")
        partial.replace(file)

    def read(self, key: str) -> CellResult:
        """Read a finished cell.

        Raises:
            RunDirectoryError: its file is damaged.
        """
        file = self._folder / key / "cell.json"
        content: dict[str, Any] = read_json(file)
        try:
            return CellResult(
                roles=content["roles"],
                scores={g: GroupScores.from_metrics(m) for g, m in content["scores"].items()},
                points=[Point(**point) for point in content["points"]],
                few_shot={int(size): groups for size, groups in content["few_shot"].items()},
                seconds=content["seconds"],
                privacy=content.get("privacy"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(
                f"{file} is no cell of a comparison ({type(error).__name__}: {error}). Remove its "
                "folder and run the comparison again: that cell alone is computed anew."
            ) from error
