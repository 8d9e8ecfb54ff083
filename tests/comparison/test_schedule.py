import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from comparison import schedule
from comparison.cells import CellStore
from comparison.plan import Cell
from comparison.schedule import compute_missing, only_process
from task.errors import RunDirectoryError, UserError
from tests.comparison.examples import make_plan, only_cell, result

CELLS = ("centralized-rounds", "population-mean", "uniform")


class Here:
    """A pool without processes: computes when it is asked to."""

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Workers are this process; the numbers that were asked for."""
    asked: list[int] = []

    @contextmanager
    def pool(workers: int) -> Iterator[Here]:
        asked.append(workers)
        yield Here()

    monkeypatch.setattr(schedule, "_pool", pool)
    return asked


def impossible(cell: Cell) -> Cell:
    """A cell that fails when it is computed: its groups are not there."""
    data = replace(cell.config.data, train_groups="Nobody")
    return replace(cell, config=replace(cell.config, data=data))


def contents(directory: Path) -> dict[str, Any]:
    """Cells' files by their folder, less what a clock says."""
    found = {}
    for file in (directory / "cells").glob("*/cell.json"):
        content = json.loads(file.read_text())
        content["seconds"] = None
        for point in content["points"]:
            point["seconds"] = None
        found[file.parent.name] = content
    return found


@pytest.fixture(scope="module")
def spawned(module_folder: Path) -> tuple[list[Cell], dict[str, str], Path]:
    """Cells, one of them impossible, computed by two workers: cells, failures, directory."""
    cells = [*make_plan(methods=CELLS).cells(), impossible(only_cell("linear-probe"))]
    return cells, compute_missing(cells, module_folder, 2), module_folder


def test_workers_compute_what_this_process_does(
    spawned: tuple[list[Cell], dict[str, str], Path], here: list[int], tmp_path: Path
) -> None:
    """With one worker it is the same: `tests.cli.test_compare`."""
    cells, failures, directory = spawned
    assert compute_missing(cells, tmp_path) == failures
    ours, theirs = contents(tmp_path), contents(directory)
    assert set(ours) == {cell.key for cell in cells[:3]}
    assert {content["method"] for content in ours.values()} == set(CELLS)
    assert ours == theirs


def test_a_cell_that_fails_is_reported_and_the_others_are_kept(
    spawned: tuple[list[Cell], dict[str, str], Path],
) -> None:
    cells, failures, directory = spawned
    (reason,) = failures.values()
    assert list(failures) == ["linear-probe, seed 0, fold 0"]
    assert "'Nobody', which is not among the survey's 4 groups" in reason
    store = CellStore(directory)
    assert [store.has(cell.key) for cell in cells] == [True, True, True, False]


def test_finished_cells_are_not_computed_again(
    here: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = make_plan().cells()
    assert compute_missing(cells[:1], tmp_path) == {}
    file = tmp_path / "cells" / cells[0].key / "cell.json"
    before = file.read_bytes(), file.stat().st_mtime_ns
    capsys.readouterr()
    assert compute_missing(cells, tmp_path) == {}
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    printed = capsys.readouterr().out
    assert "1 of 2 cells are there already" in printed
    assert cells[1].label in printed
    assert f"{cells[0].label}:" not in printed
    assert compute_missing(cells, tmp_path) == {}
    assert len(here) == 2  # the third time there was nothing to do


def test_a_failed_cell_is_tried_again(here: list[int], tmp_path: Path) -> None:
    cell = impossible(only_cell("uniform"))
    for _ in range(2):
        assert list(compute_missing([cell], tmp_path)) == [cell.label]


def test_an_error_without_words_is_named_by_its_kind(
    here: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(schedule, "_compute", broken)
    cell = only_cell("uniform")
    assert compute_missing([cell], tmp_path) == {cell.label: "MemoryError"}


def test_there_are_no_more_workers_than_cells(here: list[int], tmp_path: Path) -> None:
    compute_missing(make_plan().cells(), tmp_path, num_workers=8)
    assert here == [2]


def test_long_cells_come_first(
    here: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []

    def note(cell: Cell, directory: Path) -> tuple[float, float]:
        order.append(cell.method)
        return 0.0, 0.5

    monkeypatch.setattr(schedule, "_compute", note)
    methods = ("uniform", "centralized-rounds", "federated fedavg", "local")
    long = make_plan(methods=methods).config
    long = replace(long, train=replace(long.train, num_rounds=50))
    compute_missing(make_plan(config=long, methods=methods).cells(), tmp_path)
    assert order == ["local", "federated fedavg", "centralized-rounds", "uniform"]


def test_a_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    entered = []
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(RunDirectoryError) as refused,
        only_process(tmp_path),
    ):
        entered.append("while another computes")
    assert f"Another comparison is being computed in {tmp_path}" in str(refused.value)
    with only_process(tmp_path):
        entered.append("when it has ended")
    assert entered == ["when it has ended"]


def test_a_killed_worker_is_one_clear_error(
    here: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = make_plan().cells()
    compute_missing([first], tmp_path)

    def killed(*args: Any) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(schedule, "_compute", killed)
    with pytest.raises(UserError, match="fewer --workers: finished cells are kept"):
        compute_missing([first, second], tmp_path)
    assert CellStore(tmp_path).has(first.key)


def test_the_score_that_is_printed_is_that_of_held_out_groups(
    here: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    final = {"A": 0.9, "C": 0.3, "D": 0.5}
    for number, (held_out, printed) in enumerate({("C", "D"): "0.4000", (): "0.5667"}.items()):
        given = result(final, held_out=held_out)
        monkeypatch.setattr("comparison.methods.compute_cell", lambda *_, given=given: given)
        compute_missing([only_cell("uniform")], tmp_path / str(number))
        assert f"uniform, seed 0, fold 0: AS {printed} in 3 s" in capsys.readouterr().out
