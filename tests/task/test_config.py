import itertools
import math
import tomllib
from pathlib import Path

import pytest

from task.config import (
    ConfigError,
    DataConfig,
    RunConfig,
    TrainConfig,
    flatten,
    help_texts,
    parse_override,
    read_toml,
    split_names,
)

ROOT = Path(__file__).parents[2]
# `align.toml` is for `pluralllm align` (`tests/alignment/test_config.py`); all others are runs.
RUNS = sorted(set((ROOT / "conf").glob("*.toml")) - {ROOT / "conf" / "align.toml"})


@pytest.mark.parametrize("file", RUNS, ids=lambda f: f.stem)
def test_every_conf_file_parses(file):
    flat = read_toml(file)
    assert flat
    config = RunConfig.from_flat(flat)
    assert {key: config.to_flat()[key] for key in flat} == flat


def test_there_are_conf_files():
    assert {f.stem for f in (ROOT / "conf").glob("*.toml")} >= {"global-opinions", "paper"}


def test_pyproject_declares_every_key_with_its_default_and_type():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = flatten(pyproject["tool"]["flwr"]["app"]["config"])
    defaults = RunConfig().to_flat()
    assert list(declared) == list(defaults)
    for key, value in declared.items():
        assert (type(value), value) == (type(defaults[key]), defaults[key]), key


def test_a_config_survives_being_flattened_and_parsed():
    changed = {
        "run.seed": 3,
        "data.num-held-out-groups": 1,
        "encoder.dtype": "float16",
        "predictor.answer-gain": 1.5,
        "predictor.standardise-features": False,
        "train.schedule": "constant",
        "evaluation.every": 2,
        "strategy.name": "fedmedian",
        "log.tensorboard": True,
    }
    config = RunConfig.from_flat(changed)
    assert config.to_flat() == RunConfig().to_flat() | changed
    assert RunConfig.from_flat(config.to_flat()) == config


def test_every_key_has_a_help_text():
    assert list(help_texts()) == list(RunConfig().to_flat())
    assert all(text.strip() for text in help_texts().values())


def test_an_unknown_key_is_an_error_that_suggests_the_closest():
    with pytest.raises(ConfigError, match=r"'train\.num-round'.*mean 'train\.num-rounds'"):
        RunConfig.from_flat({"train.num-round": 3})


@pytest.mark.parametrize("key", ["train", "train.num_rounds", "num-rounds", "", "a.b.c"])
def test_a_key_that_only_resembles_one_is_unknown(key):
    with pytest.raises(ConfigError, match="Unknown config key"):
        RunConfig.from_flat({key: 3})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.num-rounds", True, "an integer"),
        ("train.num-rounds", "3", "an integer"),
        ("train.num-rounds", 3.0, "an integer"),
        ("train.learning-rate", "0.1", "a number"),
        ("train.learning-rate", False, "a number"),
        ("train.learning-rate", math.nan, "a finite number"),
        ("train.round-timeout", math.inf, "a finite number"),
        ("log.tensorboard", 1, "true or false"),
        ("log.tensorboard", "true", "true or false"),
        ("data.path", True, "a text"),
        ("data.train-groups", ["A", "B"], "a text"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(key, value, expected):
    with pytest.raises(ConfigError) as error:
        RunConfig.from_flat({key: value})
    assert str(error.value).startswith(f"{key} = {value!r}: expected {expected}.")


def test_an_integer_may_stand_for_a_float_and_a_number_for_a_text():
    flat = RunConfig.from_flat({"train.learning-rate": 1, "run.directory": 2024}).to_flat()
    assert (type(flat["train.learning-rate"]), flat["train.learning-rate"]) == (float, 1.0)
    assert flat["run.directory"] == "2024"


IMPOSSIBLE = [
    {"run.seed": -1},
    {"data.source": "tabel"},
    {"data.path": "", "data.source": "table"},
    {"data.path": "x.csv", "data.source": "synthetic"},
    {"data.num-held-out-groups": -1},
    {"data.min-questions": -1},
    {"data.held-back-fraction": 0.0},
    {"data.held-back-fraction": 1.0},
    {"data.synthetic-groups": 1},
    {"data.synthetic-questions": 1},
    {"data.synthetic-answered": 1},
    {"data.synthetic-answered": 401},
    {"encoder.name": ""},
    {"encoder.text-format": "alpacca"},
    {"encoder.device": "gpu"},
    {"encoder.dtype": "int8"},
    {"encoder.dimension": 0},
    {"encoder.batch-size": 0},
    {"encoder.max-length": 7},
    {"predictor.width": 0},
    {"predictor.embedder-depth": 1},
    {"predictor.num-layers": 0},
    {"predictor.num-heads": 0},
    {"predictor.num-heads": 3},
    {"predictor.feedforward-width": 0},
    {"predictor.answer-gain": 0.0},
    {"train.num-rounds": 0},
    {"train.local-steps": 0},
    {"train.episodes-per-step": 0},
    {"train.objective": "mse"},
    {"train.learning-rate": 0.0},
    {"train.schedule": "linear"},
    {"train.weight-decay": -0.1},
    {"train.min-context": 0},
    {"train.max-context": 9},
    {"train.min-target": 0},
    {"train.max-target": 9},
    {"train.clients-per-round": -1},
    {"train.min-valid-fraction": 0.0},
    {"train.min-valid-fraction": 1.1},
    {"train.round-timeout": 0.0},
    {"evaluation.every": 0},
    {"evaluation.num-context": 0},
    {"evaluation.num-draws": 0},
    {"strategy.name": ""},
    {"strategy.clipping-norm": -1.0},
    {"compression.name": "int4"},
    {"compression.name": ""},
    {"compression.top-k-fraction": 0.0},
    {"compression.top-k-fraction": 1.1},
    {"engine.name": "ray"},
    {"engine.num-workers": -1},
    {"engine.num-threads": -1},
    {"engine.stack-size": -1},
    {"engine.device": "mps"},
    {"engine.precision": "float16"},
]


@pytest.mark.parametrize("flat", IMPOSSIBLE, ids=str)
def test_an_impossible_value_is_an_error_that_names_key_and_value(flat):
    key, value = next(iter(flat.items()))
    with pytest.raises(ConfigError) as error:
        RunConfig.from_flat(flat)
    assert str(error.value).startswith(f"{key} = {value!r}: expected ")


EXPECTED = {
    "strategy.clipping-norm": "a number >= 0",
    "compression.name": "one of none, bfloat16, int8, top-k",
    "compression.top-k-fraction": "a number above 0 and at most 1",
    "engine.name": "one of flower, cohort",
    "engine.num-workers": "an integer >= 0",
    "engine.num-threads": "an integer >= 0",
    "engine.stack-size": "an integer >= 0",
    "engine.device": "one of auto, cpu, cuda",
    "engine.precision": "one of float32, tf32, bfloat16",
}


@pytest.mark.parametrize("flat", [f for f in IMPOSSIBLE if next(iter(f)) in EXPECTED], ids=str)
def test_an_impossible_value_of_the_engine_is_an_error_that_says_what_is_expected(flat):
    (key, value), *_ = flat.items()
    with pytest.raises(ConfigError) as error:
        RunConfig.from_flat(flat)
    assert str(error.value).startswith(f"{key} = {value!r}: expected {EXPECTED[key]}.")


@pytest.mark.parametrize(
    "flat",
    [
        {"strategy.options": "", "strategy.clipping-norm": 0.0, "engine.stack-size": 0},
        {"strategy.options": "q=5.0", "strategy.clipping-norm": 0.5, "engine.stack-size": 1},
        {"compression.name": "top-k", "compression.top-k-fraction": 1.0},
        {"engine.name": "cohort", "engine.device": "cuda", "engine.precision": "tf32"},
        {"engine.num-workers": 8, "engine.num-threads": 2},
    ],
    ids=str,
)
def test_settings_at_the_edge_of_what_is_possible_are_possible(flat):
    config = RunConfig.from_flat(flat).to_flat()
    assert {key: config[key] for key in flat} == flat


def test_the_engine_is_flower_and_nothing_is_clipped_or_compressed_unless_asked():
    config = RunConfig()
    assert config.engine.name == "flower"
    assert config.compression.name == "none"
    assert config.strategy.clipping_norm == 0


def test_a_misspelt_choice_gets_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'global-opinions'"):
        RunConfig.from_flat({"data.source": "global-opinion"})


def test_names_are_separated_by_bars_and_may_contain_commas():
    names = split_names(" Korea, Republic of|Japan | |India (Current national sample)|")
    assert names == ("Korea, Republic of", "Japan", "India (Current national sample)")
    assert split_names("") == ()


def test_a_group_that_both_trains_and_is_held_out_is_an_error():
    with pytest.raises(ConfigError, match=r"both name 'Japan'"):
        DataConfig(train_groups="China|Japan", held_out_groups="Japan |Brazil")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.num-rounds=10", 10),
        ("train.learning-rate=1e-3", 0.001),
        ("log.tensorboard=true", True),
        ('data.path="a b.csv"', "a b.csv"),
        ("data.path=a b.csv", "a b.csv"),
        ("data.path=", ""),
        ("data.train-groups=Korea, Republic of | Japan", "Korea, Republic of | Japan"),
        ("data.train-groups=['A']", "['A']"),
        ("data.path=x=y.csv", "x=y.csv"),
        ("run.directory=2024-01-01", "2024-01-01"),
    ],
)
def test_an_override_is_toml_or_else_a_text(text, expected):
    key, value = parse_override(text)
    assert key == text.partition("=")[0]
    assert (type(value), value) == (type(expected), expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("run.directory=2024.10", "2024.10"), ("encoder.revision=1e9", "1e9")]
)
def test_an_override_of_a_text_that_looks_like_a_number_is_kept_as_written(text, expected):
    config = RunConfig.from_flat(dict([parse_override(text)]))
    assert config.to_flat()[text.partition("=")[0]] == expected


def test_an_override_without_an_equals_sign_is_an_error():
    with pytest.raises(ConfigError, match=r"key=value.*'train\.num-rounds'"):
        parse_override("train.num-rounds")


def test_a_missing_or_broken_config_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_toml(tmp_path)
    (tmp_path / "broken.toml").write_text("[train\nx")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "broken.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "binary.toml")


def test_relative_paths_are_taken_from_the_base(tmp_path):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    config = RunConfig.from_flat(
        {
            "run.directory": "runs/x",
            "data.source": "table",
            "data.path": "/data/survey.csv",
            "encoder.name": "models/tiny",
        }
    ).with_absolute_paths(tmp_path)
    assert config.run.directory == str(tmp_path / "runs" / "x")
    assert config.data.path == "/data/survey.csv"
    assert config.encoder.name == str(tmp_path / "models" / "tiny")
    assert config.encoder.cache_directory == ""


@pytest.mark.parametrize("name", ["hashing", "sentence-transformers/all-MiniLM-L6-v2"])
def test_an_encoder_that_is_no_folder_keeps_its_name(tmp_path, name):
    config = RunConfig.from_flat({"encoder.name": name}).with_absolute_paths(tmp_path)
    assert config.encoder.name == name


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = RunConfig.from_flat({"encoder.cache-directory": "~/features"})
    absolute = config.with_absolute_paths(tmp_path)
    assert absolute.encoder.cache_directory == "/home/somebody/features"


def test_cosine_learning_rates_follow_the_formula_over_the_whole_run():
    config = TrainConfig(num_rounds=4, local_steps=5, learning_rate=0.3)
    rates = [rate for r in range(1, 5) for rate in config.learning_rates(r)]
    expected = [0.3 * math.cos(math.pi / 2 * step / 20) ** 2 for step in range(20)]
    assert rates == pytest.approx(expected)
    assert rates[0] == 0.3


def test_cosine_learning_rates_never_restart_and_have_no_jumps():
    config = TrainConfig(num_rounds=100, local_steps=6)
    rates = [rate for r in range(1, 101) for rate in config.learning_rates(r)]
    falls = [before - after for before, after in itertools.pairwise(rates)]
    assert min(falls) > 0
    assert max(falls) < config.learning_rate * math.pi / 2 / 600 * 1.01
    assert 0 < rates[-1] < 1e-4 * config.learning_rate


def test_a_constant_schedule_keeps_the_learning_rate():
    config = TrainConfig(schedule="constant", local_steps=3, learning_rate=0.1)
    assert config.learning_rates(1) == config.learning_rates(30) == [0.1, 0.1, 0.1]


@pytest.mark.parametrize("source", ["pairs", "ratings"])
def test_comparisons_need_a_path(source):
    with pytest.raises(
        ConfigError, match=r"data\.path = '': expected a file, a folder or a hub id"
    ):
        DataConfig(source=source)


@pytest.mark.parametrize("source", ["synthetic", "global-opinions", "nodes"])
def test_users_are_clients_only_where_a_file_names_them(source):
    with pytest.raises(ConfigError, match=rf"data\.clients = 'users'.*source is '{source}'"):
        DataConfig(source=source, clients="users")
    with pytest.raises(ConfigError, match=r"data\.clients = 'people'.*groups, users"):
        DataConfig(clients="people")


def test_results_of_clients_that_are_groups_do_not_depend_on_the_key():
    assert "data.clients" not in RunConfig().result_settings()
    users = RunConfig(data=DataConfig(source="pairs", path="x.csv", clients="users"))
    assert users.result_settings()["data.clients"] == "users"
