"""docs/strategies.md: its table names every rule and option, its code runs as it says."""

import re
import shlex
from pathlib import Path

import pytest

from cli.settings import parse_settings
from server_app.cohort import simulate
from server_app.strategies import STRATEGIES, make_strategy
from task.config import RunConfig
from task.errors import ConfigError
from task.options import format_options, parse_options
from task.saved_predictor import load_predictor
from tests.server_app.in_process_grid import tiny_config

GUIDE = (Path(__file__).parents[1] / "docs" / "strategies.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
]
ROWS = {
    name: cells.split("|")
    for name, cells in re.findall(r"^\| `([a-z+-]+)` \|(.*)\|$", GUIDE, re.MULTILINE)
}


def test_the_table_has_a_row_for_every_rule() -> None:
    assert list(ROWS) == list(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_tables_options_are_the_defaults(name: str) -> None:
    shown = dict(re.findall(r"`([a-z0-9-]+)=([0-9.]+)`", ROWS[name][1]))
    config = tiny_config(strategy__name=name)
    stated = " ".join(f"{option}={value}" for option, value in shown.items())
    default, given = (
        make_strategy(config),
        make_strategy(tiny_config(strategy__name=name, strategy__options=stated)),
    )
    for option, value in shown.items():
        attribute = option.replace("-", "_")
        assert getattr(default, attribute) == getattr(given, attribute) == float(value)


def guide_settings(command: str, folder: Path) -> list[str]:
    """Settings of a `pluralllm run` of the guide, the strategy's file in this folder."""
    words = shlex.split(command)
    assert words[:2] == ["pluralllm", "run"]
    return [word.replace("my_strategy.py", str(folder / "my_strategy.py")) for word in words[2:]]


def test_the_tutorials_strategy_runs_and_takes_its_option(tmp_path: Path) -> None:
    (code,) = [block for block in PYTHON if "class WithoutWorst" in block]
    (tmp_path / "my_strategy.py").write_text(code)
    (command,) = [c for c in COMMANDS if "WithoutWorst" in c and "engine.name=cohort" in c]
    given = parse_settings(guide_settings(command, tmp_path))
    assert parse_options(given.strategy.options) == {"keep": 0.7}
    config = RunConfig.from_flat(
        tiny_config().to_flat()
        | {"strategy.name": given.strategy.name, "strategy.options": given.strategy.options}
        | {"run.directory": str(tmp_path / "run")}
    )
    simulate(config)
    assert load_predictor(tmp_path / "run", "final")
    strategy = make_strategy(config)
    assert (type(strategy).__name__, strategy.keep) == ("WithoutWorst", 0.7)
    refused = config.to_flat() | {"strategy.options": format_options({"kept": 0.7})}
    with pytest.raises(ConfigError, match=r"takes: keep=0\.8.*Did you mean 'keep'"):
        make_strategy(RunConfig.from_flat(refused))


def test_the_tutorials_second_strategy_weighs_groups(tmp_path: Path) -> None:
    (code,) = [block for block in PYTHON if "class WorstHalf" in block]
    (tmp_path / "mine.py").write_text(code)
    config = tiny_config(
        strategy__name=f"{tmp_path / 'mine.py'}:WorstHalf", run__directory=str(tmp_path / "run")
    )
    simulate(config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert '"group_weights": {' in lines[-1]
    assert lines[-1].count(": 0.5") == 2  # of three training groups


def test_the_tutorials_predictor_of_a_groups_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = [block for block in PYTHON if "PersonalStore" in block]
    monkeypatch.chdir(tmp_path)
    simulate(tiny_config(strategy__name="ditto", run__directory="runs/mine"))
    namespace: dict[str, object] = {}
    exec(code.replace("Egypt", "Northern farmers"), namespace)
    assert namespace["predictor"]
