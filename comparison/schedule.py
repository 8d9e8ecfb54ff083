"""Computing a comparison's cells in worker processes, each on one core."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from comparison import plan
from comparison.cells import CellStore
from comparison.plan import Cell
from task.errors import RunDirectoryError, UserError
from task.metrics import macro_mean


def compute_missing(cells: Sequence[Cell], directory: Path, num_workers: int = 0) -> dict[str, str]:
    """Compute the cells that are not there yet; return the labels of those that failed, and why.

    Results do not depend on the number of workers. Whatever ends this, finished cells are kept.
    To be called inside `only_process`.

    Args:
        cells: all cells of a comparison.
        directory: the comparison's.
        num_workers: processes; 0: one per core, or one where there is a GPU.

    Raises:
        UserError: a worker was killed.
    """
    store = CellStore(directory)
    missing = [cell for cell in cells if not store.has(cell.key)]
    if finished := len(cells) - len(missing):
        print(f"{finished} of {len(cells)} cells are there already", flush=True)
    if not missing:
        return {}
    missing.sort(key=_cost, reverse=True)  # long ones first, so that no core waits at the end
    workers = min(num_workers or _default_workers(), len(missing))
    failures: dict[str, str] = {}
    with _progress() as bar, _pool(workers) as pool:
        task = bar.add_task(f"{len(missing)} cells", total=sum(map(_cost, missing)))
        running = {pool.submit(_compute, cell, directory): cell for cell in missing}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                cell = running.pop(future)
                line = _outcome(future, cell, failures)
                bar.console.print(
                    f"{line}  ({len(running)} to go)", highlight=False, soft_wrap=True
                )
                bar.advance(task, _cost(cell))
    return failures


def _compute(cell: Cell, directory: Path) -> tuple[float, float]:
    """Compute and store a cell in a worker; return its seconds and held-out score."""
    from comparison.methods import compute_cell  # here, so that the parent starts at once

    store = CellStore(directory)
    result = compute_cell(cell, store.start(cell.key))
    store.finish(cell, result)
    held_out = [s.all for g, s in result.scores.items() if result.roles[g] == "held-out"]
    return result.seconds, macro_mean(held_out or [s.all for s in result.scores.values()])


def _outcome(future: "Future[tuple[float, float]]", cell: Cell, failures: dict[str, str]) -> str:
    """Return a line about a finished cell; note it if it failed."""
    try:
        seconds, score = future.result()
    except BrokenProcessPool:
        raise UserError(
            "A worker of the comparison was killed, probably for want of memory. Run the same "
            "command again, with fewer --workers: finished cells are kept."
        ) from None
    except Exception as error:  # one cell's failure must not take the others with it
        failures[cell.label] = str(error) or type(error).__name__
        return f"FAILED {cell.label}: {failures[cell.label]}"
    return f"{cell.label}: AS {score:.4f} in {seconds:.0f} s"


def _cost(cell: Cell) -> float:
    """Estimate a cell's work, in training episodes."""
    train = cell.config.train
    kind = cell.method.split()[0]
    groups = len(cell.config.data.train_group_names)
    held_out = len(cell.config.data.held_out_group_names)
    rounds = train.num_rounds * groups
    if kind == plan.CENTRALIZED_ROUNDS:
        return rounds
    if kind in (plan.LINEAR_PROBE, plan.POPULATION_MEAN, plan.UNIFORM):
        return 5.0 * groups
    episodes = rounds * train.local_steps * train.episodes_per_step
    if kind == plan.LOCAL:  # a predictor for every context draw, of few questions
        small = 0.3 * cell.config.evaluation.num_draws * held_out / groups
        return episodes * (1 + small)
    return float(episodes)


def _default_workers() -> int:
    if torch.cuda.is_available():
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def only_process(directory: Path) -> Iterator[None]:
    """Let no other process work on a comparison meanwhile.

    Raises:
        RunDirectoryError: another one does.
    """
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunDirectoryError(
            f"Another comparison is being computed in {directory}. Wait for it, or choose another "
            "--directory."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    # An average over the whole time: cells end rarely, and several at once.
    with Progress(*columns, console=Console(), speed_estimate_period=1e9) as bar:
        yield bar


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open worker processes; whatever ends the block, none of them works on."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_core)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise


def _use_one_core() -> None:
    """Let a worker compute with one thread, as a federated client does."""
    import signal

    from threadpoolctl import threadpool_limits

    import comparison.methods  # noqa: F401 (the limit holds for what is loaded before it)

    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    torch.set_num_threads(1)
    threadpool_limits(1)


def _end_with_parent() -> None:
    """Wait for the parent's end: one that is killed cannot stop its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
