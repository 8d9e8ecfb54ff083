from pathlib import Path

import pytest

from server_app.cohort import simulate
from tests.cli.command import Command
from tests.server_app.in_process_grid import tiny_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    simulate(tiny_config(run__directory=str(tmp_path / "run"), train__num_rounds=1))
    return tmp_path / "run"


def test_a_page_and_figures_are_written(run: Path, pluralllm: Command, tmp_path: Path) -> None:
    outcome = pluralllm("report", "run")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "Report: run/report.html\n"
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert (run / "figures" / "groups.png").is_file()

    (tmp_path / "elsewhere").mkdir()
    assert pluralllm("report", "run", "--output", "elsewhere/page.html").status == 0
    assert (tmp_path / "elsewhere" / "page.html").read_text() == (run / "report.html").read_text()
    assert (tmp_path / "elsewhere" / "figures" / "groups.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone",), "gone does not exist"),
        (("empty",), "empty holds neither a run"),
        (("cut",), "cut/metrics.jsonl is cut off or damaged: line 1"),
        (("cut", "--output", "gone/page.html"), "the folder gone does not exist"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    pluralllm: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "metrics.jsonl").write_text('{"round": 0, "lo')
    outcome = pluralllm("report", *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "cut" / "report.html").exists()


def test_a_comparison_that_is_none_is_one_line_and_status_2(
    pluralllm: Command, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text('{"settings": {')
    outcome = pluralllm("report", ".")
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
