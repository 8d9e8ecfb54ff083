import json
from pathlib import Path

import pytest

from cli.settings import config_table, parse_settings
from task.config import RunConfig, help_texts
from task.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_settings_are_the_defaults() -> None:
    assert parse_settings(None) == parse_settings([]) == RunConfig()


def test_later_settings_win_whether_files_or_overrides() -> None:
    Path("a.toml").write_text("[train]\nnum-rounds = 3\nlocal-steps = 4\n[run]\nseed = 1\n")
    Path("b.toml").write_text("train.num-rounds = 5\n")
    one = parse_settings(["train.num-rounds=7", "a.toml"])
    assert (one.train.num_rounds, one.train.local_steps, one.run.seed) == (3, 4, 1)
    two = parse_settings(["a.toml", "b.toml", "run.seed=2"])
    assert (two.train.num_rounds, two.train.local_steps, two.run.seed) == (5, 4, 2)


def test_later_options_win_whether_files_or_overrides() -> None:
    Path("a.toml").write_text("[strategy.options]\nepsilon = 0.2\n")

    def options(*settings: str) -> str:
        return parse_settings(settings).strategy.options

    assert options("a.toml", "strategy.options.epsilon=0.3") == "epsilon=0.3"
    assert options("strategy.options.epsilon=0.3", "a.toml") == "epsilon=0.2"
    assert options("strategy.options.epsilon=0.3", "strategy.options=epsilon=0.1") == "epsilon=0.1"


def test_values_are_toml_and_anything_else_is_text() -> None:
    config = parse_settings(
        ["log.tensorboard=true", "train.learning-rate=1e-4", "data.held-out-groups=Spain | Japan"]
    )
    assert config.log.tensorboard is True
    assert config.train.learning_rate == 1e-4
    assert config.data.held_out_group_names == ("Spain", "Japan")


def test_relative_paths_start_in_the_current_folder(here: Path) -> None:
    Path("model").mkdir()
    config = parse_settings(
        ["run.directory=runs/a", "data.source=table", "data.path=s.csv", "encoder.name=model"]
    )
    assert config.run.directory == str(here / "runs" / "a")
    assert config.data.path == str(here / "s.csv")
    assert config.encoder.name == str(here / "model")


def test_absolute_paths_and_hub_names_stay() -> None:
    config = parse_settings(["run.directory=/runs/a", "encoder.name=org/model"])
    assert (config.run.directory, config.encoder.name) == ("/runs/a", "org/model")


def test_a_folder_called_hashing_does_not_change_the_hashing_encoder() -> None:
    Path("hashing").mkdir()
    assert parse_settings(None).encoder.name == "hashing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.num-round=3"], r"Unknown config key 'train\.num-round'.*'train\.num-rounds'"),
        (["missing.toml"], r"missing\.toml"),
        (["train.num-rounds"], "Expected key=value"),
        (["train.num-rounds=many"], r"train\.num-rounds = 'many': expected an integer"),
        (["broken.toml"], "not valid TOML"),
        (["folder.toml"], r"folder\.toml"),
    ],
)
def test_wrong_settings_are_config_errors(settings: list[str], message: str) -> None:
    Path("broken.toml").write_text("train = [")
    Path("folder.toml").mkdir()
    with pytest.raises(ConfigError, match=message):
        parse_settings(settings)


def test_the_markdown_table_has_a_row_for_every_key_with_its_default() -> None:
    rows = [line.split(" | ", 2) for line in config_table().splitlines()[2:]]
    defaults = RunConfig().to_flat()
    assert [row[0].strip("| `") for row in rows] == list(defaults) == list(help_texts())
    assert [json.loads(row[1].strip("`")) for row in rows] == list(defaults.values())
