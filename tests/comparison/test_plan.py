import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comparison import plan as plan_module
from comparison.methods import compute_cell
from comparison.plan import OTHER_METHODS, Plan, federated
from server_app.strategies import STRATEGIES
from task.config import RunConfig, StrategyConfig
from task.errors import ConfigError, SurveyError, UserError
from tests.comparison.examples import FAST, comparison_config, make_plan, only_cell

OTHER_VALUES = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value / 2 or 0.25,
}


def write_survey(path: Path, share: float = 0.25) -> str:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["group", "question", "option", "share"])
        for group in "ABCD":
            for question in range(20):
                yes = share if question else 0.5
                rows.writerow([group, f"Question {question}?", "yes", yes])
                rows.writerow([group, f"Question {question}?", "no", 1 - yes])
    return str(path)


def table_config(path: str, **changes: Any) -> RunConfig:
    return comparison_config(data__source="table", data__path=path, **changes)


def key_of(config: RunConfig) -> str:
    plan_module._file_digest.cache_clear()
    return make_plan(config=config, methods=("uniform",)).cells()[0].key


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_changes_with_every_setting_that_matters() -> None:
    """With all settings but those that say where files are and how fast things go."""
    base = only_cell("uniform")
    config = base.config
    same = set()
    for key, value in config.to_flat().items():
        if isinstance(value, str) or key.startswith("privacy."):  # see test_privacy.py
            continue
        other = OTHER_VALUES[type(value)](value)
        try:
            changed = RunConfig.from_flat({**config.to_flat(), key: other})
        except ConfigError:  # one that the other settings do not allow
            changed = RunConfig.from_flat({**config.to_flat(), key: 2 * value})
        if replace(base, config=changed).key == base.key:
            same.add(key)
    assert same == {
        "encoder.batch-size",
        "engine.num-workers",
        "engine.num-threads",
        "checkpoint.every",
        "checkpoint.keep",
        "nodes.min-available",
        "nodes.patience",
        "log.tensorboard",
        "log.flower",
        "log.json",
        "log.prometheus-port",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"data__held_out_groups": "Northern nurses"},
        {"encoder__text_format": "alpaca"},
        {"train__objective": "gaussian"},
        {"train__schedule": "constant"},
        {"strategy__options": "proximal-mu=0.5"},
        {"compression__name": "int8"},
        {"engine__precision": "tf32"},
    ],
    ids=str,
)
def test_a_key_changes_with_texts_that_matter(changes: dict[str, str]) -> None:
    base = only_cell("uniform")
    flat = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    flat = {"data.train-groups": "", **flat} if "data.held-out-groups" in flat else flat
    changed = replace(base, config=RunConfig.from_flat({**base.config.to_flat(), **flat}))
    assert changed.key != base.key


def test_a_key_does_not_change_with_places_speed_and_logs(tmp_path: Path) -> None:
    places: dict[str, Any] = {
        "run__directory": str(tmp_path / "run"),
        "encoder__cache_directory": str(tmp_path / "features"),
        "encoder__device": "cpu",
        "encoder__batch_size": 3,
        "engine__name": "cohort",
        "engine__device": "cpu",
        "engine__num_workers": 3,
        "engine__num_threads": 2,
        "log__wandb_project": "opinions",
        "log__tensorboard": True,
    }
    assert key_of(comparison_config(**places)) == key_of(comparison_config())


def test_a_key_changes_with_the_content_of_the_survey_and_not_with_its_place(
    tmp_path: Path,
) -> None:
    first = key_of(table_config(write_survey(tmp_path / "one.csv")))
    (tmp_path / "elsewhere").mkdir()
    moved = key_of(table_config(write_survey(tmp_path / "elsewhere" / "two.csv")))
    assert moved == first
    assert key_of(table_config(write_survey(tmp_path / "three.csv", share=0.26))) != first


def test_a_key_changes_with_the_content_of_a_strategys_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"

    def key() -> str:
        plan_module._file_digest.cache_clear()
        return only_cell(f"federated {file}:Mine").key

    file.write_text("from flwr.serverapp.strategy import FedAvg as Mine\n")
    first = key()
    assert key() == first
    file.write_text("from flwr.serverapp.strategy import FedMedian as Mine\n")
    assert key() != first


def test_a_key_changes_with_few_shot_sizes_method_seed_and_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = [
        *make_plan(num_seeds=2).cells(),
        *make_plan(few_shot=(0, 3)).cells(),
        *make_plan(few_shot=()).cells(),
    ]
    keys = [cell.key for cell in cells]
    monkeypatch.setattr(plan_module, "CELL_VERSION", plan_module.CELL_VERSION + 1)
    keys += [cell.key for cell in make_plan().cells()]
    assert len(set(keys)) == len(keys) == 10


def test_a_key_is_the_same_in_another_plan_and_at_another_time() -> None:
    alone = only_cell("uniform")
    assert alone.key == make_plan(num_seeds=3).cells()[1].key
    assert len(alone.key) == 20
    assert set(alone.key) <= set("0123456789abcdef")


# -- cells -----------------------------------------------------------------------------------------


def test_cells_are_seeds_times_folds_times_methods() -> None:
    cells = make_plan(num_seeds=2, folds=3, config=comparison_config(run__seed=4)).cells()
    assert [(cell.config.run.seed, cell.fold, cell.method) for cell in cells] == [
        (seed, fold, method)
        for seed in (4, 5)
        for fold in range(3)
        for method in ("population-mean", "uniform")
    ]


def roles_of(cell: Any) -> tuple[frozenset[str], frozenset[str]]:
    data = cell.config.data
    return frozenset(data.train_group_names), frozenset(data.held_out_group_names)


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_folds_hold_every_group_out_once_and_are_the_same_for_all_seeds(folds: int) -> None:
    cells = make_plan(num_seeds=3, folds=folds, methods=("uniform",)).cells()
    by_seed = {
        seed: [roles_of(cell) for cell in cells if cell.config.run.seed == seed]
        for seed in range(3)
    }
    everyone = frozenset.union(*roles_of(cells[0]))
    assert len(everyone) == 4
    for train, held_out in by_seed[0]:
        assert train | held_out == everyone
        assert not train & held_out
        assert held_out
    assert sorted(group for _, held_out in by_seed[0] for group in held_out) == sorted(everyone)
    assert by_seed[1] == by_seed[2] == by_seed[0]


def test_without_folds_all_seeds_have_the_groups_of_the_first() -> None:
    cells = make_plan(num_seeds=4).cells()
    assert len({roles_of(cell) for cell in cells}) == 1
    assert (
        len(
            {
                roles_of(make_plan(config=comparison_config(run__seed=s)).cells()[0])
                for s in range(4)
            }
        )
        > 1
    )


def test_a_federated_method_changes_its_strategy_and_training_alone() -> None:
    methods = federated(
        [" fedprox  strategy.options.proximal-mu=0.5 train.local-steps=3 ", "fedavg"]
    )
    assert methods == (
        "federated fedprox strategy.options.proximal-mu=0.5 train.local-steps=3",
        "federated fedavg",
    )
    prox, average, uniform = make_plan(methods=(*methods, "uniform")).cells()
    assert prox.config.strategy == StrategyConfig(name="fedprox", options="proximal-mu=0.5")
    assert (prox.config.train.local_steps, average.config.train.local_steps) == (3, 2)
    assert average.config == uniform.config
    assert (
        replace(prox.config, strategy=average.config.strategy, train=average.config.train)
        == average.config
    )


def test_options_of_the_runs_strategy_are_for_that_strategy_alone() -> None:
    config = comparison_config(
        strategy__name="term", strategy__options="tilt=3", strategy__clipping_norm=0.5
    )
    methods = federated(["term", "term strategy.options.tilt=4", "afl", "fedavg"])
    cells = make_plan(config=config, methods=methods).cells()
    assert [cell.config.strategy.options for cell in cells] == ["tilt=3", "tilt=4", "", ""]
    assert {cell.config.strategy.clipping_norm for cell in cells} == {0.5}
    assert len({cell.key for cell in cells}) == 4


def test_planning_computes_nothing_but_features(tmp_path: Path) -> None:
    make_plan(methods=OTHER_METHODS).cells()
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("centralised-rounds",)}, "Did you mean 'centralized-rounds'?"),
        ({"methods": ("uniform extra",)}, "Method 'uniform extra': expected one of"),
        ({"methods": ()}, "Nothing to compare"),
        ({"methods": ("federated",)}, "expected 'federated <strategy> [key=value ...]'"),
        ({"methods": ("federated fedavgg",)}, "Did you mean 'fedavg'?"),
        ({"methods": ("federated fedprox strategy.options.mu=1",)}, "strategy.options.mu = 1"),
        ({"methods": ("federated fedprox strategy.options.proximal-mu=0",)}, "proximal_mu = 0"),
        ({"methods": ("federated gone.py:Mine",)}, "gone.py"),
        ({"methods": ("federated fedavg evaluation.num-draws=9",)}, "evaluation.num-draws"),
        ({"methods": ("federated fedavg run.seed=9",)}, "changes 'run.seed'"),
        ({"methods": ("federated fedavg data.min-questions=9",)}, "changes 'data.min-questions'"),
        ({"methods": ("federated fedavg train.local-step=9",)}, "train.local-step'"),
        ({"methods": ("federated fedavg train.local-steps",)}, "Expected key=value"),
        ({"methods": ("federated fedavg train.local-steps=0",)}, "train.local-steps = 0"),
        ({"folds": 1}, "--folds 1: expected 2 to 4"),
        ({"folds": 5}, "--folds 5: expected 2 to 4"),
        ({"folds": -1}, "--folds -1: expected 2 to 4"),
        ({"few_shot": (0, -1)}, "--few-shot [0, -1]: expected numbers >= 0"),
        ({"num_seeds": 0}, "--seeds 0: expected at least 1"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_anything_is_computed(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        make_plan(**changes).cells()
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_every_strategy_can_be_compared() -> None:
    methods = federated(list(STRATEGIES))
    names = [cell.config.strategy.name for cell in make_plan(methods=methods).cells()]
    assert names == list(STRATEGIES)


def test_a_survey_or_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv"):
        make_plan(config=table_config(str(tmp_path / "gone.csv"))).cells()
    with pytest.raises(ConfigError, match="Northern farmers"):
        make_plan(config=comparison_config(data__held_out_groups="Northern farmer")).cells()


def test_groups_too_small_to_train_are_refused_though_only_a_fold_lets_them(tmp_path: Path) -> None:
    """Held out, 6 questions do for a context of 5; to train they do not."""
    path = tmp_path / "survey.csv"
    write_survey(path)
    lines = path.read_text().splitlines()
    small = [line for line in lines if not line.startswith("D,")] + [
        line for line in lines if line.startswith("D,")
    ][:12]
    path.write_text(os.linesep.join(small))
    config = table_config(
        str(path),
        data__train_groups="A | B | C",
        data__held_out_groups="D",
        data__held_back_fraction=0.3,
    )
    make_plan(config=config).cells()
    with pytest.raises(SurveyError, match=r"'D' \(train\)"):
        make_plan(config=config, folds=2).cells()


def test_a_plan_can_be_written_as_json() -> None:
    asked = make_plan(num_seeds=2, folds=2)
    written = asked.to_json()
    assert (written["seeds"], written["folds"], written["few_shot"]) == ([0, 1], 2, [0, 2])
    assert written["methods"] == ["population-mean", "uniform"]
    assert RunConfig.from_flat(written["settings"]) == asked.config
    assert isinstance(asked, Plan)


@pytest.mark.parametrize("methods", [("uniform", "uniform"), federated(["fedavg", " fedavg"])])
def test_a_method_named_twice_is_refused(methods: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        make_plan(methods=methods).cells()


def test_a_strategy_cannot_be_renamed_by_its_overrides() -> None:
    methods = federated(["fedavg strategy.name=fedmedian"])
    with pytest.raises(ConfigError, match=r"strategy\.name"):
        make_plan(methods=methods).cells()


def test_local_needs_two_context_questions() -> None:
    with pytest.raises(ConfigError, match="num-context = 1"):
        make_plan(methods=("local",), config=comparison_config(evaluation__num_context=1)).cells()


# -- strategies ------------------------------------------------------------------------------------


def test_methods_that_are_not_federated_do_not_depend_on_the_runs_strategy() -> None:
    config = comparison_config(
        strategy__name="term", strategy__options="tilt=3", strategy__clipping_norm=0.5
    )
    methods = (*FAST, "centralized-rounds")
    for cell, plain in zip(
        make_plan(config=config, methods=methods).cells(),
        make_plan(methods=methods).cells(),
        strict=True,
    ):
        assert cell.config.strategy == StrategyConfig()
        assert cell.key == plain.key


def test_an_own_strategys_path_may_be_relative_and_its_options_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from flwr.serverapp.strategy import FedAvg\n"
        "class Mine(FedAvg):\n"
        "    def __init__(self, number: int = 1, **rest) -> None:\n"
        "        super().__init__(**rest)\n"
    )
    absolute = f"{tmp_path}/mine.py:Mine"
    config = comparison_config(strategy__name=absolute, strategy__options="number=3")
    methods = federated(
        ["mine.py:Mine", absolute, "mine.py:Mine strategy.options.number=4", "fedavg"]
    )
    strategies = [
        cell.config.strategy for cell in make_plan(config=config, methods=methods).cells()
    ]
    assert [each.options for each in strategies] == ["number=3", "number=3", "number=4", ""]
    assert [each.name for each in strategies] == [absolute, absolute, absolute, "fedavg"]


# -- users as clients ------------------------------------------------------------------------------


def write_pairs(path: Path) -> str:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["group", "user", "prompt", "chosen", "rejected"])
        for group in "ABCD":
            for user in range(3):
                for prompt in range(12):
                    answers = ("yes", "no") if (prompt + user) % 3 else ("no", "yes")
                    rows.writerow([group, f"u{user}", f"Prompt {prompt}?", *answers])
    return str(path)


def users_config(path: str, **changes: Any) -> RunConfig:
    return comparison_config(
        data__source="pairs",
        data__path=path,
        data__clients="users",
        evaluation__num_context=2,
        **changes,
    )


def test_folds_hold_out_all_users_of_a_group(tmp_path: Path) -> None:
    config = users_config(write_pairs(tmp_path / "pairs.csv"))
    cells = make_plan(config=config, methods=("uniform",), folds=4, num_seeds=1).cells()
    held_out = [roles_of(cell)[1] for cell in cells]
    assert sorted(map(sorted, held_out)) == [["A"], ["B"], ["C"], ["D"]]
    with pytest.raises(ConfigError, match="expected 2 to 4, the number of groups"):
        make_plan(config=config, methods=("uniform",), folds=5).cells()


def test_results_of_users_are_told_of_their_groups(tmp_path: Path) -> None:
    config = users_config(write_pairs(tmp_path / "pairs.csv"), data__held_out_groups="A")
    for method in ("federated fedavg", "local", "uniform"):
        (cell,) = make_plan(config=config, methods=(method,), num_seeds=1, few_shot=(1,)).cells()
        folder = tmp_path / method
        folder.mkdir()
        result = compute_cell(cell, folder)
        assert dict(result.roles) == {"A": "held-out", "B": "train", "C": "train", "D": "train"}
        assert result.scores.keys() == set("ABCD")
        assert all(point.groups.keys() == set("ABCD") for point in result.points)
        if method != "local":
            assert result.few_shot[1].keys() == {"A"}


def test_a_key_changes_with_the_content_of_a_data_sets_folder(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_pairs(tmp_path / name / "pairs.csv")
    one = key_of(users_config(str(tmp_path / "one")))
    assert key_of(users_config(str(tmp_path / "other"))) == one
    with (tmp_path / "other" / "pairs.csv").open("a") as file:
        file.write("A,u9,Prompt 0?,yes,no\n")
    assert key_of(users_config(str(tmp_path / "other"))) != one
