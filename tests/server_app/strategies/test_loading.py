"""A user's own strategy by its path, and options checked against constructors."""

import importlib
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from flwr.serverapp import strategy as flower

from server_app.strategies import STRATEGIES, make_strategy, require_strategy
from task import records
from task.config import RunConfig
from task.errors import ConfigError
from tests.server_app.in_process_grid import InProcessGrid, tiny_config
from tests.server_app.training import identical, train_federated

MINE = """
    from flwr.serverapp.strategy import FedAvg, QFedAvg

    NOT_A_CLASS = 3

    class Mine(FedAvg):
        '''Counts to a number that has no default.'''

        def __init__(self, *, number: int, rate: float = 0.5, name: str = "x", fast: bool = False,
                     limit: float | None = None, **rest) -> None:
            super().__init__(**rest)
            if number < 0:
                raise ValueError(f"number = {number}: expected >= 0.")
            self.given = (number, rate, name, fast, limit)

    class Plain(FedAvg):
        pass

    class Fairer(QFedAvg):
        def __init__(self, *, extra: int = 1, **rest) -> None:
            super().__init__(**rest)
            self.extra = extra

    class Closed(QFedAvg):
        def __init__(self, *, extra: int = 1) -> None:
            super().__init__(0.1, q=0.5, fraction_evaluate=0.0)

    class Nothing:
        def __init__(self, size: int = 1) -> None:
            pass

    def make(number: int = 7, fraction_train: float = 0.1) -> FedAvg:
        strategy = FedAvg(fraction_train=fraction_train)
        strategy.number = number
        return strategy
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "mine.py"
    path.parent.mkdir()
    path.write_text(dedent(MINE))
    return path


def made(name: str, options: str = "", **changes: Any) -> Any:
    return make_strategy(tiny_config(strategy__name=name, strategy__options=options, **changes))


def own(folder: Path, body: str, future: str = "") -> str:
    """The name of a strategy in a file, whose class has this body."""
    path = folder / "own.py"
    lines = [
        *(future, "import functools", "from collections.abc import Callable"),
        *("from typing import Any", "from flwr.serverapp.strategy import FedAvg"),
        *("class Own(FedAvg):", indent(dedent(body), "    ")),
    ]
    path.write_text("\n".join(lines) + "\n")
    return f"{path}:Own"


def refused(name: str, options: str = "") -> str:
    """The message of the error; it is one line."""
    config = tiny_config(strategy__name=name, strategy__options=options)
    with pytest.raises(ConfigError) as error:
        require_strategy(config)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# -- finding it ------------------------------------------------------------------------------------


def test_a_class_in_a_file_anywhere(file: Path) -> None:
    strategy = made(f"{file}:Mine", "number=3 rate=2 name=9 fast=true limit=1")
    assert type(strategy).__name__ == "Mine"
    assert strategy.given == (3, 2.0, "9", True, 1.0)
    assert list(map(type, strategy.given)) == [int, float, str, bool, float]
    assert made(f"{file}:Mine", "number=3").given == (3, 0.5, "x", False, None)


def test_a_class_of_a_module_that_can_be_imported() -> None:
    assert type(made("flwr.serverapp.strategy:FedMedian")) is flower.FedMedian


def test_a_class_of_a_module_in_the_apps_folder(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(file.parent))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (file.parent / "own_rules_of_a_test.py").write_text(file.read_text())
    importlib.invalidate_caches()
    assert made("own_rules_of_a_test:Mine", "number=1").given[0] == 1
    del sys.modules["own_rules_of_a_test"]


def test_a_function_that_returns_a_strategy(file: Path) -> None:
    strategy = made(f"{file}:make", "number=8")
    assert type(strategy) is flower.FedAvg
    assert strategy.number == 8
    assert strategy.fraction_train == 1.0  # the population grid samples


def test_two_files_of_one_name_do_not_get_mixed_up(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.py"
    other.write_text(dedent(MINE).replace("number: int = 7", "number: int = 11"))
    assert [made(f"{path}:make").number for path in (file, other, file)] == [7, 11, 7]


def test_an_own_strategy_that_changes_nothing_trains_as_its_base_does(file: Path) -> None:
    config = tiny_config(strategy__name=f"{file}:Plain")
    found, _ = train_federated(InProcessGrid(config), config, num_rounds=2)
    base = tiny_config(strategy__name="flwr.serverapp.strategy:FedAvg")
    expected, _ = train_federated(InProcessGrid(base), base, num_rounds=2)
    assert identical(found, expected)


def test_a_strategy_without_a_constructor_of_its_own_is_made(tmp_path: Path) -> None:
    """Flower's base class has none either."""
    path = tmp_path / "bare.py"
    hooks = [
        "configure_train",
        "aggregate_train",
        "configure_evaluate",
        "aggregate_evaluate",
        "summary",
    ]
    methods = "\n".join(f"    def {hook}(self, *args): pass" for hook in hooks)
    path.write_text(
        f"from flwr.serverapp.strategy import Strategy\nclass Bare(Strategy):\n{methods}"
    )
    assert isinstance(made(f"{path}:Bare"), flower.Strategy)


def test_what_cannot_be_found_is_named(file: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.py"
    assert refused(f"{gone}:Mine").endswith(f"there is no file {gone}.")
    assert "there is no module no_such_module" in refused("no_such_module:Mine")
    assert "there is no module flwr.no_such" in refused("flwr.no_such:Mine")
    message = refused(f"{file}:Mien")
    assert f"{file} has no Mien. Did you mean 'Mine'?" in message
    assert "NOT_A_CLASS is none" in refused(f"{file}:NOT_A_CLASS")
    for name in (f"{file}:", ":Mine"):
        assert "expected module:Class or path/to/file.py:Class" in refused(name)


def test_a_name_that_is_none_gets_a_suggestion_and_the_list() -> None:
    message = refused("fedavgg")
    assert "Did you mean 'fedavg'?" in message
    assert all(name in message for name in STRATEGIES)
    assert "path/to/file.py:Class" in message


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: "),
    ],
)
def test_a_file_or_module_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    (tmp_path / "broken_in_a_test.py").write_text(code)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    importlib.invalidate_caches()
    for name in (f"{tmp_path / 'broken_in_a_test.py'}:Mine", "broken_in_a_test:Mine"):
        assert f"importing it raised {problem}" in refused(name)


def test_what_is_no_strategy_is_refused(file: Path) -> None:
    message = refused(f"{file}:Nothing", "size=2")
    assert message.endswith("a subclass of flwr.serverapp.strategy.Strategy, got a Nothing.")


# -- options ---------------------------------------------------------------------------------------


def test_an_unknown_option_gets_a_suggestion_and_the_list(file: Path) -> None:
    message = refused(f"{file}:Mine", "number=1 raet=0.5")
    assert "strategy.options.raet = 0.5" in message
    assert "Did you mean 'rate'?" in message
    assert "takes: number, rate=0.5, name=x, fast=False, limit=None." in message
    assert "fedavg takes no options." in refused("fedavg", "proximal-mu=1")


@pytest.mark.parametrize(
    "option",
    [
        "fraction-train",
        "fraction-evaluate",
        "min-train-nodes",
        "min-available-nodes",
        "weighted-by-key",
        "arrayrecord-key",
        "train-metrics-aggr-fn",
    ],
)
@pytest.mark.parametrize("name", ["fedavg", "term", "ditto"])
def test_what_the_app_decides_is_no_option(name: str, option: str) -> None:
    message = refused(name, f"{option}=1")
    assert f"strategy.options.{option} = 1: {name} does not take it." in message
    assert f"{option}=" not in message


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("number=1.5", "strategy.options.number = 1.5: expected int."),
        ("number=x", "strategy.options.number = 'x': expected int."),
        ("number=true", "strategy.options.number = True: expected int."),
        ("number=1 rate=fast", "strategy.options.rate = 'fast': expected float."),
        ("number=1 rate=true", "strategy.options.rate = True: expected float."),
        ("number=1 fast=1", "strategy.options.fast = 1: expected bool."),
        ("number=1 name=true", "strategy.options.name = True: expected str."),
        ("number=1 limit=far", "strategy.options.limit = 'far': expected float."),
    ],
)
def test_an_option_of_another_type_is_an_error(file: Path, options: str, problem: str) -> None:
    assert refused(f"{file}:Mine", options) == problem


def test_options_of_the_base_class_count_where_the_constructor_hands_them_on(file: Path) -> None:
    fairer = made(f"{file}:Fairer", "extra=2 q=0.25 client-learning-rate=0.125")
    assert (fairer.extra, fairer.q, fairer.client_learning_rate) == (2, 0.25, 0.125)
    assert "Did you mean 'q'?" in refused(f"{file}:Fairer", "qq=0.5")
    assert "expected strategy.options.client-learning-rate." in refused(f"{file}:Fairer", "")
    assert "takes: extra=1." in refused(f"{file}:Closed", "q=0.25")
    assert made(f"{file}:Closed").q == 0.5


def test_a_required_option_that_is_missing_is_named_with_the_list(file: Path) -> None:
    message = refused(f"{file}:Mine", "rate=1.0")
    assert f"strategy.name = '{file}:Mine': expected strategy.options.number." in message
    assert "takes: number, rate=0.5" in message


def test_what_the_constructor_refuses_is_said_with_the_options(file: Path) -> None:
    message = refused(f"{file}:Mine", "number=-2")
    assert "strategy.options = 'number=-2'" in message
    assert message.endswith("number = -2: expected >= 0.")


@pytest.mark.parametrize(
    ("code", "problem"),
    [("1 / 0", "division by zero"), ("{}['size']", "'size'"), ("assert False, 'no'", "no")],
)
def test_whatever_the_constructor_raises_is_said(tmp_path: Path, code: str, problem: str) -> None:
    name = own(tmp_path, f"def __init__(self, **rest) -> None: {code}")
    assert refused(name).endswith(f"strategy.options = '': {problem}")


def test_a_constructor_that_is_a_partial_method_is_looked_into(tmp_path: Path) -> None:
    name = own(
        tmp_path,
        """
        def set_up(self, *, rate: float = 0.5, **rest) -> None:
            super().__init__(**rest)
            self.rate = rate

        __init__ = functools.partialmethod(set_up, rate=0.25)
        """,
    )
    assert made(name).rate == 0.25
    assert made(name, "rate=0.75").rate == 0.75
    assert made(name).fraction_evaluate == 0.0
    assert refused(name, "rate=fast") == "strategy.options.rate = 'fast': expected float."
    assert "Did you mean 'rate'?" in refused(name, "raet=1")


def test_what_is_no_number_text_or_bool_cannot_be_an_option(tmp_path: Path) -> None:
    name = own(
        tmp_path,
        """
        def __init__(self, *, sizes: list[int] = (1, 2), call: Callable | None = None,
                     either: list[int] | float = 0.5, any: Any = None, bare=None, **rest) -> None:
            super().__init__(**rest)
            self.given = (sizes, call, either, any, bare)
        """,
    )
    assert made(name).given == ((1, 2), None, 0.5, None, None)
    assert made(name, "either=2 any=x bare=true").given == ((1, 2), None, 2.0, "x", True)
    for option in ("sizes", "call"):
        message = refused(name, f"{option}=3")
        assert message.startswith(f"strategy.options.{option} = 3: expected a ")
        assert message.endswith("Options are numbers, texts or true and false.")


def test_names_that_flower_has_too_are_options_of_an_own_constructor_alone(tmp_path: Path) -> None:
    name = own(
        tmp_path,
        """
        def __init__(self, *, eta_l: float = 0.5, train_loss_key: str = "x", **rest) -> None:
            super().__init__(**rest)
            self.given = (eta_l, train_loss_key)
        """,
    )
    assert made(name, "eta-l=0.25 train-loss-key=loss").given == (0.25, "loss")
    assert "takes: eta-l=0.5, train-loss-key=x." in refused(name, "weighted-by-key=loss")
    assert "FedAdam does not take it" in refused("flwr.serverapp.strategy:FedAdam", "eta-l=0.25")


def test_what_python_cannot_look_into_is_refused() -> None:
    assert "its constructor's arguments cannot be told" in refused("builtins:max")


def test_a_class_that_is_not_written_in_python_is_refused() -> None:
    assert refused("builtins:dict").endswith("Strategy, got a dict.")


def test_an_annotation_that_only_a_type_checker_understands_spoils_no_option(
    tmp_path: Path,
) -> None:
    name = own(
        tmp_path,
        """
        def __init__(self, *, rate: float = 0.5, tree: "Forest | None" = None, **rest) -> None:
            super().__init__(**rest)
            self.rate = rate
        """,
        future="from __future__ import annotations",
    )
    assert made(name, "rate=0.25").rate == 0.25


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_named_strategy_takes_the_cohort_as_it_is_and_leaves_evaluation_alone(
    name: str,
) -> None:
    strategy = made(name)
    assert (strategy.fraction_train, strategy.fraction_evaluate) == (1.0, 0.0)
    assert (strategy.min_train_nodes, strategy.min_available_nodes) == (1, 1)


# -- paths -----------------------------------------------------------------------------------------


def test_a_files_relative_path_becomes_absolute_and_other_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")

    def absolute(name: str) -> str:
        config = RunConfig.from_flat({"strategy.name": name})
        return config.with_absolute_paths(tmp_path).strategy.name

    assert absolute("rules/mine.py:Mine") == f"{tmp_path}/rules/mine.py:Mine"
    assert absolute("/rules/mine.py:Mine") == "/rules/mine.py:Mine"
    assert absolute("~/mine.py:Mine") == "/home/somebody/mine.py:Mine"
    for name in ("fedavg", "rules.mine:Mine"):
        assert absolute(name) == name


def test_flowers_own_qfedavg_by_its_path_reads_the_loss_that_clients_send() -> None:
    strategy = made("flwr.serverapp.strategy:QFedAvg", "client-learning-rate=30.0")
    assert strategy.train_loss_key == records.LOSS
