import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from server_app.sinks import JsonLines, TensorBoard, WeightsAndBiases, closing_sinks, numbers
from task.config import LogConfig
from task.errors import ConfigError

METRICS = {
    "loss": None,
    "clients": 3,
    "failures": {"Japan": 'it said "no"\nand left'},
    "held_out": {"alignment_score": 0.75, "worst_group_name": "Japan"},
}


def test_json_lines_are_one_object_per_round(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.log(METRICS, 0)
    first = (tmp_path / "metrics.jsonl").read_text()  # readable while the run goes on
    sink.log({"loss": 0.5}, 1)
    sink.close()
    assert json.loads(first) == {"round": 0, **METRICS}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1]


def test_json_lines_are_appended_to(tmp_path: Path) -> None:
    for step in range(2):
        sink = JsonLines(tmp_path / "metrics.jsonl")
        sink.log({}, step)
        sink.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_tensorboard_gets_every_number_and_nothing_else(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path)
    sink.log(METRICS, 0)
    sink.log({"clients": 2, "held_out": {"alignment_score": 0.5}}, 5)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"clients", "held_out/alignment_score"}
    read = [(event.step, event.value) for event in events.Scalars("held_out/alignment_score")]
    assert read == [(0, 0.75), (5, 0.5)]


def test_tensorboard_can_read_a_round_while_the_run_goes_on(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path)
    try:
        for step in range(2):
            sink.log({"loss": 0.5}, step)
            events = EventAccumulator(str(tmp_path))
            events.Reload()
            assert [event.step for event in events.Scalars("loss")] == list(range(step + 1))
    finally:
        sink.close()


def test_numbers_are_flattened_without_texts_and_truth_values() -> None:
    assert numbers({"a": {"b": {"c": 1}, "d": "x"}, "e": True, "f": 2.5}) == {"a/b/c": 1, "f": 2.5}


def test_the_config_chooses_the_sinks(tmp_path: Path) -> None:
    def kinds(config: LogConfig, folder: Path) -> list[type]:
        folder.mkdir()
        with closing_sinks(config, folder, {}) as sinks:
            return [type(sink) for sink in sinks]

    assert kinds(LogConfig(), tmp_path / "a") == [JsonLines]
    assert not (tmp_path / "a" / "tensorboard").exists()
    assert kinds(LogConfig(tensorboard=True), tmp_path / "b") == [JsonLines, TensorBoard]
    assert list((tmp_path / "b" / "tensorboard").iterdir())


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_missing_wandb_is_a_config_error_before_anything_is_written(tmp_path: Path) -> None:
    config = LogConfig(wandb_project="opinions")
    with (
        pytest.raises(ConfigError, match="the package wandb is not installed"),
        closing_sinks(config, tmp_path, {}),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_wandb_gets_the_settings_and_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for the package, which is not a dependency: it writes its calls down.
    (tmp_path / "wandb.py").write_text(
        "calls = []\n"
        "class Run:\n"
        "    def log(self, metrics, step): calls.append((metrics, step))\n"
        "    def finish(self): calls.append('finished')\n"
        "def init(**options):\n"
        "    calls.append(options)\n"
        "    return Run()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        config = LogConfig(wandb_project="opinions")
        with closing_sinks(config, tmp_path, {"run.seed": 4}) as sinks:
            for sink in sinks:
                sink.log(METRICS, 2)
    finally:
        wandb = sys.modules.pop("wandb", None)
    assert type(sinks[-1]) is WeightsAndBiases
    assert wandb.calls == [
        {"project": "opinions", "dir": str(tmp_path), "config": {"run.seed": 4}},
        ({"clients": 3, "held_out/alignment_score": 0.75}, 2),
        "finished",
    ]
