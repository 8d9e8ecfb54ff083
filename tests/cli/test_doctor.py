import os

import pytest
import torch

from tests.cli.command import Command

TINY = ("data.synthetic-groups=4", "data.num-held-out-groups=1", "encoder.dimension=16")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six cores, no GPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def row(out: str, what: str) -> str:
    """A row of the table, of which a long cell takes several lines."""
    lines = [[cell.strip() for cell in line.split("│")[1:3]] for line in out.splitlines()]
    cells = [line for line in lines if len(line) == 2]
    first = next(index for index, line in enumerate(cells) if line[0] == what)
    text = cells[first][1]
    for label, more in cells[first + 1 :]:
        if label:
            break
        text += f" {more}"
    return text


def test_flowers_engine_is_shown_with_its_nodes_and_actors(pluralllm: Command) -> None:
    found = row(pluralllm("doctor", *TINY).out, "simulation")
    assert "num-supernodes=4" in found
    assert "cohort" not in found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], "cohort engine, 1 worker(s) on cpu, 6 thread(s) each"),
        (["engine.num-workers=2"], "cohort engine, 2 worker(s) on cpu, 3 thread(s) each"),
        (["engine.num-threads=5"], "cohort engine, 1 worker(s) on cpu, 5 thread(s) each"),
    ],
)
def test_the_cohort_engine_is_shown_with_its_workers_and_threads(
    pluralllm: Command, settings: list[str], expected: str
) -> None:
    outcome = pluralllm("doctor", *TINY, "engine.name=cohort", *settings)
    assert outcome.status == 0
    assert row(outcome.out, "simulation") == expected


def test_an_engine_that_cannot_start_is_named(pluralllm: Command) -> None:
    outcome = pluralllm("doctor", *TINY, "engine.name=cohort", "engine.device=cuda")
    assert outcome.status == 0
    assert "engine.device = 'cuda'" in row(outcome.out, "a run would fail")
