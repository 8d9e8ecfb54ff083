import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comparison import methods, trial
from comparison.cells import CellResult
from comparison.methods import METHODS, compute_cell
from comparison.plan import OTHER_METHODS, Cell
from comparison.trial import Trial
from server_app.cohort import simulate
from task.baselines import score_baselines
from task.config import RunConfig
from task.evaluation import evaluate_group, evaluation_splits, predict_with, score_splits
from task.features import GroupData, load_group
from task.metrics import GroupScores
from task.personal import PersonalStore
from task.predictor import PreferencePredictor
from task.saved_predictor import load_predictor
from tests.comparison.examples import comparison_config, only_cell
from tests.server_app.cohort_runs import HELD_OUT, TRAIN_GROUPS

FEDERATED = "federated fedavg"
ALL = (FEDERATED, *OTHER_METHODS)
LEARNING = (FEDERATED, "centralized-rounds", "centralized-steps", "local", "mlp-probe")


@pytest.fixture(scope="module")
def computed(module_folder: Path) -> dict[str, tuple[CellResult, Path, Cell]]:
    """Every method once: its result, its folder, its cell."""
    done = {}
    for method in ALL:
        cell, folder = only_cell(method), module_folder / method
        folder.mkdir()
        done[method] = compute_cell(cell, folder), folder, cell
    return done


@pytest.fixture
def results(computed: dict[str, Any]) -> dict[str, CellResult]:
    return {method: result for method, (result, _, _) in computed.items()}


def saved(directory: Path) -> bytes:
    return (directory / "predictor-final" / "model.safetensors").read_bytes()


def totals(scores: GroupScores) -> list[float]:
    return [number for sums in scores.to_metrics().values() for number in sums]


# -- all methods -----------------------------------------------------------------------------------


def test_every_method_of_a_plan_can_be_computed() -> None:
    assert set(METHODS) == {"federated", *OTHER_METHODS}


def test_every_method_scores_all_groups_on_the_same_questions(
    results: dict[str, CellResult],
) -> None:
    expected = results["uniform"]
    assert set(expected.scores) == {*TRAIN_GROUPS, HELD_OUT}
    assert expected.scores[HELD_OUT].all.weight == 2 * 19  # two draws of all but five of context
    for method, result in results.items():
        assert result.roles == expected.roles, method
        for group, scores in expected.scores.items():
            ours = result.scores[group]
            for split in ("all", "seen", "new", "top_option"):
                assert getattr(ours, split).weight == getattr(scores, split).weight, method
            assert sum(ours.calibration.options) == sum(scores.calibration.options), method
            assert sum(ours.calibration.true) == pytest.approx(sum(scores.calibration.true))
    assert len({result.scores[HELD_OUT].all.total for result in results.values()}) == len(ALL)


def test_every_method_says_how_long_it_took(results: dict[str, CellResult]) -> None:
    assert all(result.seconds > 0 for result in results.values())


def test_what_learns_has_a_curve_that_ends_with_its_scores(
    results: dict[str, CellResult],
) -> None:
    for method, result in results.items():
        assert [point.round for point in result.points] == (
            [0, 1, 2] if method in LEARNING else []
        ), method
        for point in result.points:
            assert set(point.groups) == {*TRAIN_GROUPS, HELD_OUT}
        if result.points:
            last = {group: scores.all.value for group, scores in result.scores.items()}
            assert result.points[-1].groups == pytest.approx(last, abs=1e-6), method
            seconds = [point.seconds for point in result.points]
            assert seconds == sorted(seconds)


def test_points_count_steps_episodes_and_what_was_sent(results: dict[str, CellResult]) -> None:
    def costs(method: str) -> list[tuple[int, int, int]]:
        return [(p.round, p.optimizer_steps, p.episodes) for p in results[method].points]

    rounds = [(0, 0, 0), (1, 2, 6), (2, 4, 12)]  # two steps of three clients
    assert costs(FEDERATED) == costs("centralized-steps") == costs("mlp-probe") == rounds
    assert costs("centralized-rounds") == [(0, 0, 0), (1, 1, 3), (2, 2, 6)]
    # three training groups, and the held-out group once for each of two draws
    assert costs("local") == [(0, 0, 0), (1, 2, 10), (2, 4, 20)]
    sent = {method: [p.megabytes for p in results[method].points] for method in LEARNING}
    first, second, third = sent[FEDERATED]
    assert first == 0
    assert second > 0
    assert third == pytest.approx(2 * second, rel=0.01)
    assert sent["local"] == [0, 0, 0]
    assert len(set(sent["centralized-steps"])) == 1  # the answers, once
    assert sent["centralized-steps"][0] > 0


def test_few_shot_curves_are_of_held_out_groups(results: dict[str, CellResult]) -> None:
    for method, result in results.items():
        if method == "local":
            assert result.few_shot == {}  # it has no predictor that reads another context
            continue
        assert set(result.few_shot) == {0, 2}
        assert all(set(groups) == {HELD_OUT} for groups in result.few_shot.values())
        same = result.few_shot[0] == result.few_shot[2]
        assert same == (method in ("population-mean", "uniform")), method


def test_without_held_out_groups_the_training_groups_have_the_few_shot_curve(
    tmp_path: Path,
) -> None:
    cell = only_cell("uniform", data__num_held_out_groups=0)
    result = compute_cell(cell, tmp_path)
    assert set(result.roles.values()) == {"train"}
    assert set(result.few_shot[0]) == {*TRAIN_GROUPS, HELD_OUT}
    assert compute_cell(replace(cell, few_shot=()), tmp_path).few_shot == {}


# -- federated -------------------------------------------------------------------------------------


def test_a_federated_cells_final_scores_are_those_of_its_runs_summary(
    computed: dict[str, Any],
) -> None:
    result, folder, _ = computed[FEDERATED]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert set(summary["groups"]) == set(result.scores)
    for group, entry in summary["groups"].items():
        scores = result.scores[group]
        assert entry["role"] == result.roles[group]
        assert entry["alignment_score"] == pytest.approx(scores.all.value, abs=1e-6)
        assert entry["top_option_accuracy"] == pytest.approx(scores.top_option.value)
        disclosed = scores.calibration.disclosed  # a summary knows no more than that
        expected = disclosed.error if sum(disclosed.options) else None
        assert entry["calibration_error"] == pytest.approx(expected, abs=1e-6)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [point.groups for point in result.points] == [
        json.loads(line)["groups"] for line in lines
    ]


def test_a_federated_cell_says_nothing_while_it_runs(
    computed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, _ = computed[FEDERATED]
    assert "Engine: cohort" in (folder / "log.txt").read_text()
    assert capsys.readouterr().out == ""


def test_a_federated_cells_predictor_is_bit_for_bit_that_of_a_run(
    computed: dict[str, Any], tmp_path: Path
) -> None:
    _, folder, cell = computed[FEDERATED]
    run = replace(cell.config.run, directory=str(tmp_path / "run"))
    directory = simulate(replace(cell.config, run=run))
    assert saved(directory.path) == saved(folder / "run")


def test_a_strategy_of_its_own_changes_the_predictor(
    computed: dict[str, Any], tmp_path: Path
) -> None:
    cell = only_cell("federated fedprox strategy.options.proximal-mu=5 train.num-rounds=1")
    result = compute_cell(cell, tmp_path)
    assert [point.round for point in result.points] == [0, 1]
    assert saved(tmp_path / "run") != saved(computed[FEDERATED][1] / "run")


@pytest.mark.parametrize("name", ["ditto", "mr-mtl"])
def test_training_groups_with_parameters_of_their_own_are_scored_by_those(
    name: str, tmp_path: Path
) -> None:
    cell = only_cell(f"federated {name} train.num-rounds=1 strategy.options.proximal-mu=0")
    result = compute_cell(cell, tmp_path)
    train = [group for group, role in result.roles.items() if role == "train"]
    store = PersonalStore(tmp_path / "run" / "clients")
    predictor = load_predictor(tmp_path / "run", "final")
    shared = dict(predictor.named_parameters())
    shared = {parameter: value.detach().clone() for parameter, value in shared.items()}
    for group in result.roles:
        data = load_group(cell.config, group)
        own = store.load(group)
        assert (own is not None) == (group in train)
        scored = []
        for parameters in (own.parameters if own else shared, shared):
            predictor.set_parameters(parameters)
            scored.append(
                evaluate_group(predictor, data, cell.config.evaluation, 0, data.question_keys)
            )
        assert result.scores[group].all == scored[0].all
        assert (scored[0].all != scored[1].all) == (group in train)
    start, end = result.points
    assert set(start.groups) == set(end.groups) == set(result.roles)
    for group in result.roles:
        assert end.groups[group] == pytest.approx(result.scores[group].all.value)


# -- centralized -----------------------------------------------------------------------------------


def trained(monkeypatch: pytest.MonkeyPatch, cell: Cell, folder: Path) -> list[Any]:
    """The modules that a cell trains, after training, with the groups they were trained on."""
    modules: list[Any] = []
    real = methods.train_with_curve

    def spy(module: Any, clients: list[GroupData], *args: Any) -> Any:
        modules.append((module, clients))
        return real(module, clients, *args)

    monkeypatch.setattr(methods, "train_with_curve", spy)
    compute_cell(cell, folder)
    return modules


def one_training_group(**changes: Any) -> dict[str, Any]:
    """A run in which pooling and averaging are the same: one group, one round, one step."""
    return {
        "train__num_rounds": 1,
        "train__local_steps": 1,
        "data__train_groups": TRAIN_GROUPS[0],
        "data__held_out_groups": HELD_OUT,
    } | changes


@pytest.mark.parametrize("method", ["centralized-rounds", "centralized-steps"])
def test_with_one_group_and_one_step_centralized_and_federated_training_are_the_same(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    federated = compute_cell(only_cell(FEDERATED, **one_training_group()), tmp_path)
    expected = dict(load_predictor(tmp_path / "run", "final").named_parameters())
    cell = only_cell(method, **one_training_group())
    ((module, _),) = trained(monkeypatch, cell, tmp_path)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6, msg=name)
    centralized = compute_cell(cell, tmp_path)
    for group, scores in federated.scores.items():
        assert totals(scores) == pytest.approx(totals(centralized.scores[group]), abs=1e-4)


def test_both_centralized_trainings_start_where_the_federated_one_does(
    results: dict[str, CellResult],
) -> None:
    start = results[FEDERATED].points[0].groups
    for method in ("centralized-rounds", "centralized-steps"):
        assert results[method].points[0].groups == pytest.approx(start, abs=1e-6)
        assert results[method].points[-1].groups != pytest.approx(start, abs=1e-6)


def test_centralized_training_is_on_the_training_groups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ((_, clients),) = trained(monkeypatch, only_cell("centralized-steps"), tmp_path)
    assert [data.group for data in clients] == TRAIN_GROUPS


# -- local -----------------------------------------------------------------------------------------


def test_a_training_groups_local_predictor_is_the_centralized_one_of_that_group_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    local = {
        clients[0].group: module
        for module, clients in trained(monkeypatch, only_cell("local"), tmp_path)
        if clients[0].role == "train"
    }
    assert list(local) == TRAIN_GROUPS
    alone = only_cell(
        "centralized-steps", data__train_groups=TRAIN_GROUPS[0], data__held_out_groups=HELD_OUT
    )
    ((module, _),) = trained(monkeypatch, alone, tmp_path)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, local[TRAIN_GROUPS[0]].state_dict()[name]), name


def test_a_held_out_groups_local_predictors_are_one_for_each_context_draw(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cell = only_cell("local")
    local = [
        (module, data)
        for module, (data,) in trained(monkeypatch, cell, tmp_path)
        if data.role == "held-out"
    ]
    splits = evaluation_splits(local[0][1], cell.config.evaluation, 0)
    group = Trial(cell).groups[HELD_OUT]
    expected = GroupScores()
    assert len(local) == len(splits) == 2
    for (module, data), split in zip(
        local, evaluation_splits(group, cell.config.evaluation, 0), strict=True
    ):
        assert data.trainable.tolist() == split.context.tolist()
        keys = Trial(cell).seen_keys(group)
        expected += score_splits(predict_with(module), group, [split], keys)
    scores = compute_cell(cell, tmp_path).scores[HELD_OUT]
    assert totals(scores) == pytest.approx(totals(expected))


def poisoned(cell: Cell) -> Any:
    """A trial whose groups answer everything but their first draw's context differently."""
    changed = Trial(cell)
    group = changed.groups[HELD_OUT]
    split = evaluation_splits(group, cell.config.evaluation, 0)[0]
    shares = group.answers.shares.copy()
    for question in split.target:
        start, number = group.answers.starts[question], group.answers.lengths[question]
        shares[start : start + number] = np.eye(number)[0]
    answers = replace(group.answers, shares=shares)
    changed.groups = {**changed.groups, HELD_OUT: replace(group, answers=answers)}
    return changed


def test_a_held_out_groups_local_predictor_never_sees_the_answer_of_a_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cell = only_cell("local", evaluation__num_draws=1)

    def predictions(make_trial: Any) -> np.ndarray:
        modules: list[Any] = []
        real = trial.train_with_curve

        def spy(module: Any, clients: Any, *args: Any) -> Any:
            modules.append((module, clients[0]))
            return real(module, clients, *args)

        monkeypatch.setattr(methods, "train_with_curve", spy)
        made = make_trial(cell)
        METHODS["local"](made, tmp_path)
        (module,) = [module for module, data in modules if data.role == "held-out"]
        group = made.groups[HELD_OUT]
        (split,) = evaluation_splits(group, cell.config.evaluation, 0)
        return predict_with(module)(group, split)

    np.testing.assert_array_equal(predictions(poisoned), predictions(Trial))
    honest, changed = (METHODS["local"](made, tmp_path) for made in (Trial(cell), poisoned(cell)))
    assert honest.scores[HELD_OUT] != changed.scores[HELD_OUT]  # the targets did change


# -- no learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["uniform", "population-mean"])
def test_what_does_not_learn_scores_as_the_baselines_of_a_run(
    results: dict[str, CellResult], method: str
) -> None:
    cell = only_cell(method)
    expected = score_baselines(cell.config)[method.replace("-", "_")]
    for group, scores in expected.items():
        assert results[method].scores[group] == scores


def test_a_fold_trains_on_the_groups_that_it_does_not_hold_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config: RunConfig = comparison_config(
        data__train_groups=HELD_OUT, data__held_out_groups=" | ".join(TRAIN_GROUPS)
    )
    cell = Cell(method="centralized-rounds", fold=1, config=config, few_shot=())
    ((module, clients),) = trained(monkeypatch, cell, tmp_path)
    assert [data.group for data in clients] == [HELD_OUT]
    assert isinstance(module, PreferencePredictor)


def test_a_curve_counts_the_seconds_of_training_and_not_those_of_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 1000, 10))  # every look at it is ten seconds later
    monkeypatch.setattr("comparison.trial.time.perf_counter", lambda: next(clock))
    config = comparison_config(train__num_rounds=4)
    curve = trial.Curve(config.train, dict, every=3, megabytes=2.0)
    for number in range(1, 5):
        curve(trial.Progress(number, 2 * number, 6 * number))
    assert [(p.round, p.seconds) for p in curve.points] == [(0, 0.0), (3, 30.0), (4, 40.0)]
    assert {p.megabytes for p in curve.points} == {2.0}


def test_a_context_of_one_question_is_enough_for_all_but_local(tmp_path: Path) -> None:
    for method in ("linear-probe", "centralized-rounds"):
        result = compute_cell(only_cell(method, evaluation__num_context=1), tmp_path)
        assert 0 < result.scores[HELD_OUT].all.value < 1
