import json
import math
from pathlib import Path

import pytest

from comparison.cells import CellResult, CellStore
from task.errors import RunDirectoryError
from tests.comparison.examples import only_cell, result

RESULT = result(
    {"A": 0.7, "B": 0.6, "C": 0.5, "D": 0.8},
    curve=(0.5, 1.0),
    few_shot={0: {"C": 0.4}, 2: {"C": 0.45}, 50: {}},
)


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path)


def test_a_cell_comes_back_as_it_was_written(store: CellStore, tmp_path: Path) -> None:
    cell = only_cell("uniform")
    folder = store.start(cell.key)
    assert folder == tmp_path / "cells" / cell.key
    store.finish(cell, RESULT)
    assert store.read(cell.key) == RESULT
    assert [path.name for path in folder.iterdir()] == ["cell.json"]
    written = json.loads((folder / "cell.json").read_text())
    assert (written["method"], written["seed"], written["fold"]) == ("uniform", 0, 0)


def test_a_cell_counts_when_it_is_finished_and_not_before(store: CellStore) -> None:
    cell = only_cell("uniform")
    assert not store.has(cell.key)
    folder = store.start(cell.key)
    (folder / ".123-cell.json").write_text('{"method"')  # half written
    assert not store.has(cell.key)
    store.finish(cell, RESULT)
    assert store.has(cell.key)


def test_what_an_interrupted_attempt_left_is_removed(store: CellStore) -> None:
    cell = only_cell("uniform")
    folder = store.start(cell.key)
    store.run_folder(cell.key).mkdir()
    (store.run_folder(cell.key) / "status.json").write_text("{}")
    (folder / ".123-cell.json").write_text("{")
    assert list(store.start(cell.key).iterdir()) == []


def test_a_result_that_json_does_not_know_is_not_written(store: CellStore) -> None:
    cell = only_cell("uniform")
    store.start(cell.key)
    broken = CellResult(RESULT.roles, RESULT.scores, RESULT.points, {0: {"C": math.nan}}, 1.0)
    with pytest.raises(ValueError, match="JSON"):
        store.finish(cell, broken)
    assert not store.has(cell.key)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "{}",
        lambda text: text.replace('"calibration"', '"calibrated"'),
        lambda text: text.replace('"optimizer_steps"', '"steps"'),
        lambda text: text.replace('"few_shot": {"0"', '"few_shot": {"none"'),
    ],
    ids=["cut", "empty", "another", "no calibration", "another point", "no size"],
)
def test_a_damaged_file_is_named(store: CellStore, damage: object) -> None:
    cell = only_cell("uniform")
    file = store.start(cell.key) / "cell.json"
    store.finish(cell, RESULT)
    file.write_text(damage(file.read_text()))  # type: ignore[operator]
    with pytest.raises(RunDirectoryError) as error:
        store.read(cell.key)
    assert str(file) in str(error.value)
    assert "again" in str(error.value)
