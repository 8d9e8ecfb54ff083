import json
import shutil
from pathlib import Path

import pytest

from report.build import build_report
from report.files import kind_of, read_run
from task.errors import RunDirectoryError

MESSAGES = {
    "config.toml": "not valid TOML",
    "environment.json": "damaged",
    "status.json": "damaged",
    "metrics.jsonl": "line 3 is not valid JSON",
    "summary.json": "damaged",
    "groups.parquet": "not a Parquet table of groups",
}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.mark.parametrize("name", list(MESSAGES))
def test_a_file_that_is_cut_off_is_named(run: Path, name: str) -> None:
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: len(content) - 40])
    if name == "config.toml":
        (run / name).write_bytes(content + b"\n[cut")
    with pytest.raises(RunDirectoryError) as raised:
        build_report(run)
    message = str(raised.value)
    assert str(run / name) in message
    assert MESSAGES[name] in message
    assert "move" in message  # what to do
    assert "\n" not in message


@pytest.mark.parametrize("name", [name for name in MESSAGES if name != "config.toml"])
def test_a_file_of_something_else_is_named(run: Path, name: str) -> None:
    (run / name).write_bytes(b"\xff\xfe\x00 not this")
    with pytest.raises(RunDirectoryError, match=name):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "content"), [("summary.json", "[]"), ("metrics.jsonl", '{"loss": 1}\n')]
)
def test_valid_json_of_something_else_is_named(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(RunDirectoryError, match=name):
        read_run(run)


def test_a_directory_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="gone does not exist"):
        kind_of(tmp_path / "gone")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file"):
        kind_of(tmp_path / "file")


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError) as raised:
        kind_of(tmp_path)
    for name in ("config.toml", "status.json", "metrics.jsonl", "comparison.json"):
        assert name in str(raised.value)


def test_runs_and_comparisons_are_told_apart(run: Path, tmp_path: Path) -> None:
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison" / "comparison.json").write_text("{}")
    assert (kind_of(run), kind_of(tmp_path / "comparison")) == ("run", "comparison")


def test_an_output_in_a_missing_folder_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"gone/page\.html: the folder .*gone does not"):
        build_report(run, tmp_path / "gone" / "page.html")
    with pytest.raises(RunDirectoryError, match="is a folder"):
        build_report(run, tmp_path)


def test_a_run_is_read_as_it_was_written(run: Path) -> None:
    files = read_run(run)
    summary = json.loads((run / "summary.json").read_text())
    assert files.summary == summary
    assert files.groups == summary["groups"]
    assert files.settings["train.num-rounds"] == 2
    assert (files.status, files.reason) == ("completed", "")
    assert [entry["round"] for entry in files.rounds] == [0, 1, 2]


def test_nothing_is_demanded_of_a_run_that_has_just_started(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"status": "running", "reason": ""}')
    files = read_run(tmp_path)
    assert (files.status, files.rounds, files.summary, files.groups) == ("running", [], {}, {})
