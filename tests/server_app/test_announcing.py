"""What a run prints with `log.json`, and that people are told the same without."""

import json
import re
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import server_app
from server_app.announcing import announce, announce_as
from server_app.cohort import simulate
from task.config import LogConfig, RunConfig
from task.errors import RunDirectoryError
from tests.server_app.cohort_runs import FAULTY, TRAIN_GROUPS, change_training, cohort_config

BY_GROUP = {"groups", "failures", "evaluation_failures", "group_weights", "personal"}
AS_JSON = LogConfig(json=True)


@pytest.fixture(autouse=True)
def lines_for_people_afterwards() -> Any:
    yield
    announce_as(LogConfig())


def parsed(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def events(lines: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [line["fields"] for line in lines if line["event"] == name]


def in_directory(config: RunConfig, path: Path, **log: Any) -> RunConfig:
    return replace(config, run=replace(config.run, directory=str(path)), log=LogConfig(**log))


def test_everything_goes_this_way() -> None:
    """What is printed past `announce` would be no JSON; the standard error is for text."""
    for file in Path(server_app.__file__).parent.rglob("*.py"):
        if file.name != "announcing.py":
            calls = re.findall(r"\bprint\([^\n]*", file.read_text())
            assert all("file=sys.stderr" in call for call in calls), file


def test_a_run_that_is_told_to_stop_says_so_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    monkeypatch.setattr("server_app.federation.load_survey", stop)
    with pytest.raises(SystemExit):
        simulate(in_directory(cohort_config(), tmp_path / "run", json=True))
    *_, last = parsed(capsys.readouterr().out)
    assert (last["level"], last["event"]) == ("warning", "run-stopped")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert last["fields"] == {"reason": status["reason"]}


def test_people_read_the_text_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    announce_as(LogConfig())
    announce("waiting", "Waiting: 100 % of nodes", {"answered": 1})
    announce("run-failed", fields={"reason": "why"}, level="error")
    announce("stopped", "\nStopped", level="warning")
    assert capsys.readouterr().out == "Waiting: 100 % of nodes\n\nStopped\n"


def test_json_has_time_level_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    announce_as(AS_JSON)
    before = datetime.now(UTC)
    announce("waiting", "Waiting:\n1 of 2", {"expected": 2, "name": 'a "Côte"\nb'}, "warning")
    (line,) = parsed(capsys.readouterr().out)
    time = datetime.fromisoformat(line.pop("time"))
    assert time.utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert abs((time - before).total_seconds()) < 60
    assert line == {
        "level": "warning",
        "event": "waiting",
        "fields": {"expected": 2, "name": 'a "Côte"\nb'},
    }


def test_a_whole_run_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(update: Any, index: int) -> Any:
        update.values_KP[index] = float("nan")
        return update

    change_training(monkeypatch, FAULTY, spoil)
    simulate(in_directory(cohort_config(), tmp_path / "run", json=True))
    lines = parsed(capsys.readouterr().out)  # every line of it
    assert all(set(line) == {"time", "level", "event", "fields"} for line in lines)
    names = [line["event"] for line in lines]
    assert names[:3] == ["engine", "run-started", "survey"]
    assert names[-1] == "run-completed"
    assert events(lines, "run-started") == [{"directory": str(tmp_path / "run")}]
    groups = {fields["role"]: fields["first"] for fields in events(lines, "population")}
    assert groups == {"train": TRAIN_GROUPS, "held-out": ["Northern students"]}
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    rounds = events(lines, "round")
    assert [fields["round"] for fields in rounds] == [0, 1, 2]
    for fields, metrics in zip(rounds, logged, strict=True):
        assert fields == {key: metrics[key] for key in fields}
        assert set(metrics) - set(fields) <= BY_GROUP
        assert not set(fields) & BY_GROUP  # a line does not grow with the number of groups
        assert fields["train"]["alignment_score"] == metrics["train"]["alignment_score"]
    failed = events(lines, "client-failed")
    assert [(f["round"], f["client"], f["phase"], f["cause"]) for f in failed] == [
        (1, FAULTY, "training", "rejected"),
        (2, FAULTY, "training", "rejected"),
    ]
    assert failed[0]["reason"] == logged[1]["failures"][FAULTY]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {fields.pop("group"): fields for fields in events(lines, "group")} == summary["groups"]
    (told,) = events(lines, "summary")
    assert told["held_out"] == summary["held_out"]


def test_a_failed_run_says_why_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RunDirectoryError("The disk is full.")

    monkeypatch.setattr("server_app.federation.load_survey", fail)
    with pytest.raises(RunDirectoryError):
        simulate(in_directory(cohort_config(), tmp_path / "run", json=True))
    *_, last = parsed(capsys.readouterr().out)
    assert (last["level"], last["event"]) == ("error", "run-failed")
    assert last["fields"] == {"reason": "The disk is full."}


def test_without_json_the_same_run_prints_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = in_directory(cohort_config(train__num_rounds=1), tmp_path / "run")
    simulate(config)
    out = re.sub(r"\d+\.\d+", "#", capsys.readouterr().out).splitlines()
    assert out[:5] == [
        "Engine: cohort, 1 worker(s) on cpu, 2 thread(s) each; computes clients in stacks",
        f"Run directory: {tmp_path / 'run'}",
        "Survey: 4 groups, 60 questions, 96 answer distributions",
        "Training groups (3): Northern farmers, Northern nurses, Northern teachers",
        "Held-out groups (1): Northern students",
    ]
    assert out[5] == ""
    assert out[6].startswith("round     loss  AS train  AS held-out  worst held-out group")
    assert [row.split()[0] for row in out[7:9]] == ["0", "1"]
    assert out[9] == ""
    assert out[10].startswith("group              role")
    assert out[11].startswith("Northern students  held-out")
    assert out[15] == ""
    assert out[17].startswith("held-out model")
    assert out[-2:] == ["", f"Run directory: {tmp_path / 'run'}"]
