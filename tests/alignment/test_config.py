from pathlib import Path

import pytest

from alignment.config import AlignConfig, GrpoSettings, default_settings, help_texts
from task.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_every_setting_has_a_default_and_a_meaning():
    assert list(help_texts()) == list(default_settings())
    assert all(text.endswith(".") for text in help_texts().values())


def test_the_example_parses():
    config = AlignConfig.parse([str(ROOT / "conf" / "align.toml"), "reward.path=somewhere"])
    defaults = default_settings()
    changed = {k for k, v in config.to_flat().items() if v != defaults[k]}
    assert "align.targets" in changed


def test_later_settings_win_and_survive_flattening():
    config = AlignConfig.parse(["reward.path=a", "train.beta=1", "train.beta=0.5"])
    assert config.train.beta == 0.5
    assert AlignConfig.from_flat(config.to_flat()) == config


def test_the_documented_table_is_that_of_the_settings():
    text = (ROOT / "docs" / "alignment.md").read_text()
    for key, meaning in help_texts().items():
        if key.startswith("data."):  # README.md's
            continue
        assert f"| `{key}` |" in text, key
        assert meaning.replace("|", "\\|") in text, key


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reward.path=", "reward.path = '': expected an exported reward model"),
        ("questions.held-out-fraction=1.0", "questions.held-out-fraction = 1.0"),
        ("policy.heads=3", r"policy.heads = 3: expected a number whose double divides"),
        ("policy.layers=many", "policy.layers = 'many': expected an integer"),
        ("align.method=ppo", "align.method = 'ppo': expected one of grpo, best-of-n"),
        ("reward.floor=1", "reward.floor = 1.0: expected a number below 0"),
    ],
)
def test_impossible_values_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        AlignConfig.parse(["reward.path=a", setting])


def test_a_pass_must_divide_a_step():
    GrpoSettings(prompts=4, generations=2, sequences_per_pass=4)
    with pytest.raises(ConfigError, match="sequences-per-pass = 5"):
        GrpoSettings(prompts=4, generations=2, sequences_per_pass=5)
