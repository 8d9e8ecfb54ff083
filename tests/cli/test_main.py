import subprocess
import sys
from pathlib import Path

import pytest

from task.features import load_features
from tests.cli.command import Command

TINY = ("data.synthetic-groups=4", "data.num-held-out-groups=1", "encoder.dimension=16")


@pytest.mark.parametrize("name", ["run", "config", "embed", "doctor"])
def test_a_wrong_key_is_one_line_and_status_2(pluralllm: Command, name: str) -> None:
    outcome = pluralllm(name, "train.num-round=3")
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err == (
        "error: Unknown config key 'train.num-round'. Did you mean 'train.num-rounds'? "
        "`pluralllm config` lists every key.\n"
    )


def test_the_installed_script_ends_without_a_traceback(tmp_path: Path) -> None:
    ended = subprocess.run(
        [Path(sys.executable).with_name("pluralllm"), "embed", "data.source=tabel"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: data.source = 'tabel': expected one of")
    assert len(ended.stderr.splitlines()) == 1


def test_without_a_command_there_is_help(pluralllm: Command) -> None:
    outcome = pluralllm()
    for name in ("run", "embed", "predict", "config", "doctor"):
        assert name in outcome.out


def test_config_lists_every_key_with_the_value_that_settings_leave(pluralllm: Command) -> None:
    outcome = pluralllm("config", "train.num-rounds=77")
    assert outcome.status == 0
    rows = {
        cells[1].strip(): cells[2].strip()
        for line in outcome.out.splitlines()
        if len(cells := line.split("│")) > 3
    }
    assert rows["train.num-rounds"] == "77"
    assert rows["strategy.name"] == "fedavg"
    assert rows["log.flower"] == "False"


def test_embed_fills_the_cache(pluralllm: Command, tmp_path: Path) -> None:
    outcome = pluralllm("embed", *TINY, "encoder.cache-directory=features")
    assert outcome.status == 0
    (file,) = (tmp_path / "features" / "hashing-16").glob("*.npy")
    before = file.stat().st_mtime_ns
    assert "Survey: 4 groups, 400 questions, 240 answer distributions" in outcome.out
    assert "x 16 in" in outcome.out
    assert str(tmp_path / "features") in outcome.out
    load_features.cache_clear()
    assert pluralllm("embed", *TINY, "encoder.cache-directory=features").status == 0
    assert file.stat().st_mtime_ns == before  # read, not computed again


def test_doctor_says_what_a_run_would_use(pluralllm: Command) -> None:
    outcome = pluralllm("doctor", *TINY)
    assert outcome.status == 0
    for text in ("torch", "flwr", "3 train, 1 held out", "num-supernodes=4", "hashing"):
        assert text in outcome.out


def test_doctor_says_why_a_run_would_fail(pluralllm: Command) -> None:
    outcome = pluralllm("doctor", "data.source=table", "data.path=gone.csv")
    assert outcome.status == 0
    assert "a run would fail" in outcome.out
    assert "does not exist" in outcome.out
