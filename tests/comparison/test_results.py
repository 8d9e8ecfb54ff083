import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparison.plan import FEDERATED, OTHER_METHODS, differs_in_strategy_alone
from comparison.results import (
    KINDS,
    MANIFEST,
    describe_method,
    federated_run,
    load_results,
)
from comparison.table import to_markdown
from task.errors import RunDirectoryError
from task.statistics import paired_interval, two_way_p_value
from tests.comparison.examples import result, write_comparison

AVG, ROUNDS, STEPS = "federated fedavg", "centralized-rounds", "centralized-steps"
GROUPS = ("A", "B", "C", "D", "E", "F")
OUT = ("C", "D", "E", "F")


def scored(shift: float, seed: int, curve: tuple[float, ...] = (0.5, 0.96, 1.0)) -> Any:
    """A cell whose groups differ, as do the seeds."""
    values = {
        group: 0.6 + 0.03 * number + 0.01 * seed + shift * (1 + 0.1 * number)
        for number, group in enumerate(GROUPS)
    }
    return result(
        values, held_out=OUT, curve=curve, few_shot={0: {"C": 0.4}, 2: {"C": 0.5}, 50: {}}
    )


def cells(seeds: tuple[int, ...] = (0, 1, 2), **changes: Any) -> dict[tuple[str, int, int], Any]:
    made = {}
    for seed in seeds:
        made[AVG, seed, 0] = scored(0.05, seed)
        made[ROUNDS, seed, 0] = scored(0.0, seed, (0.5, 0.8, 0.9, 1.0))
        made[STEPS, seed, 0] = scored(0.02, seed)
        made["uniform", seed, 0] = scored(-0.1, seed, ())
    return made | changes.get("replaced", {})


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    return load_results(write_comparison(tmp_path / "mine", cells()))


def test_results_have_the_keys_that_they_are_said_to_have(results: dict[str, Any]) -> None:
    documented = load_results.__doc__.split("Keys:")[1].split("Raises")[0]
    assert set(results) == {word.strip("`,. \n") for word in documented.split()} - {"and"}
    assert results["missing_cells"] == []
    assert list(results["table"]) == [AVG, ROUNDS, STEPS, "uniform"]
    assert set(results["curves"]) == {AVG, ROUNDS, STEPS}  # uniform does not learn
    assert results["num_groups"] == {"train": 2, "held_out": 2}


def test_nothing_in_the_results_is_unknown_to_json(results: dict[str, Any]) -> None:
    again = json.loads(json.dumps(results, allow_nan=False))
    assert again == results  # no number is a key either


def test_paired_differences_are_those_of_the_same_groups_and_seeds(
    results: dict[str, Any],
) -> None:
    entries = {(e["method"], e["versus"], e["role"]): e for e in results["paired"]}
    assert len(entries) == len(results["paired"]) == 2 * 3 * 2
    assert (ROUNDS, ROUNDS, "held_out") not in entries
    entry = entries[AVG, ROUNDS, "held_out"]
    differences = np.array([[0.05 * (1 + 0.1 * number) for number in (2, 3, 4, 5)]] * 3)
    assert entry["difference"]["mean"] == pytest.approx(differences.mean())
    assert entry["difference"]["per_seed"] == pytest.approx(differences.mean(1).tolist())
    low, high = paired_interval(differences)
    assert (entry["difference"]["low"], entry["difference"]["high"]) == pytest.approx((low, high))
    assert entry["p_value"] == pytest.approx(two_way_p_value(differences))
    assert (entry["num_groups"], entry["num_seeds"]) == (4, 3)
    assert entries[AVG, ROUNDS, "train"]["num_groups"] == 2
    opposite = entries[ROUNDS, STEPS, "held_out"]["difference"]["mean"]
    assert opposite == pytest.approx(-entries[STEPS, ROUNDS, "held_out"]["difference"]["mean"])


def test_paired_differences_use_the_seeds_that_both_have(tmp_path: Path) -> None:
    given = cells(replaced={(ROUNDS, 2, 0): None})
    results = load_results(write_comparison(tmp_path / "mine", given))
    entries = {(e["method"], e["versus"], e["role"]): e for e in results["paired"]}
    assert entries[AVG, ROUNDS, "held_out"]["num_seeds"] == 2
    assert entries[AVG, STEPS, "held_out"]["num_seeds"] == 3
    assert results["missing_cells"] == ["centralized-rounds, seed 2, fold 0"]
    assert len(results["table"][ROUNDS]["held_out"]["alignment_score"]["per_seed"]) == 2


def test_a_method_without_any_finished_cell_is_left_out_and_named(tmp_path: Path) -> None:
    given = cells(replaced={(STEPS, seed, 0): None for seed in range(3)})
    results = load_results(write_comparison(tmp_path / "mine", given))
    assert STEPS not in results["table"]
    assert STEPS in [method["name"] for method in results["methods"]]
    assert len(results["missing_cells"]) == 3
    assert {claim["versus"] for claim in results["claims"]} == {"Centralized, equal rounds"}


def test_a_comparison_without_any_finished_cell_has_results(tmp_path: Path) -> None:
    results = load_results(write_comparison(tmp_path / "mine", dict.fromkeys(cells())))
    assert len(results["missing_cells"]) == 12
    for key in ("table", "curves", "groups", "few_shot", "reliability"):
        assert results[key] == {}
    assert results["paired"] == results["claims"] == []


def test_a_seed_with_a_fold_missing_waits_for_it(tmp_path: Path) -> None:
    given = {(ROUNDS, seed, fold): scored(0.0, seed) for seed in (0, 1) for fold in (0, 1)} | {
        (ROUNDS, 1, 1): None
    }
    results = load_results(write_comparison(tmp_path / "mine", given, folds=2))
    assert results["missing_cells"] == ["centralized-rounds, seed 1, fold 1"]
    assert len(results["table"][ROUNDS]["held_out"]["alignment_score"]["per_seed"]) == 1


def test_one_seed_has_no_intervals_no_p_value_and_no_verdict(tmp_path: Path) -> None:
    results = load_results(write_comparison(tmp_path / "mine", cells((0,)), intervals=False))
    assert results["table"][AVG]["held_out"]["alignment_score"]["low"] is None
    assert {entry["p_value"] for entry in results["paired"]} == {None}
    assert {claim["verdict"] for claim in results["claims"]} == {"one seed"}
    json.dumps(results, allow_nan=False)


def test_claims_are_about_the_first_federated_method_on_held_out_groups(
    results: dict[str, Any],
) -> None:
    claims = {(claim["claim"], claim["versus"]): claim for claim in results["claims"]}
    assert len(claims) == 8
    faster = claims["46 % faster convergence", "Centralized, equal rounds"]
    assert faster["measured"]["mean"] == pytest.approx(100 * (1 - 1 / 3))  # rounds 1 and 3
    assert faster["verdict"] == "reproduced"
    better = claims["4 % better alignment", "Centralized, equal rounds"]
    per_seed = results["table"][AVG]["held_out"]["alignment_score"]["per_seed"]
    others = results["table"][ROUNDS]["held_out"]["alignment_score"]["per_seed"]
    assert better["measured"]["per_seed"] == pytest.approx(
        [100 * (a / b - 1) for a, b in zip(per_seed, others, strict=True)]
    )


@pytest.mark.parametrize("gone", [AVG, ROUNDS])
def test_without_something_to_compare_there_are_no_claims(tmp_path: Path, gone: str) -> None:
    given = {key: value for key, value in cells().items() if key[0] in {gone, "uniform"}}
    results = load_results(write_comparison(tmp_path / "mine", given))
    assert results["claims"] == []


def test_without_a_seed_that_all_share_there_are_no_claims(tmp_path: Path) -> None:
    given = cells((0, 1), replaced={(AVG, 0, 0): None, (ROUNDS, 1, 0): None})
    assert load_results(write_comparison(tmp_path / "mine", given))["claims"] == []


def test_few_shot_and_reliability_are_those_of_the_figures(results: dict[str, Any]) -> None:
    assert list(results["few_shot"][AVG]) == ["0", "2"]
    assert results["few_shot"][AVG]["2"]["mean"] == 0.5
    assert results["reliability"]["uniform"][0]["options"] == 4 * 20 * 3


def test_methods_are_described_by_name_label_kind_and_what_they_read() -> None:
    for method in OTHER_METHODS:
        described = describe_method(method, {})
        assert described["name"] == method
        assert (described["kind"], described["reads"]) == KINDS[method]
        assert described["label"][0].isupper()
    prox = describe_method("federated fedprox strategy.options.proximal-mu=0.1", {})
    assert prox["label"] == "Federated (fedprox, proximal-mu=0.1)"
    assert prox["kind"] == "federated"
    assert set(KINDS) == {FEDERATED, *OTHER_METHODS}


@pytest.mark.parametrize(
    ("method", "weight", "disclosed"),
    [
        ("federated fedavg", 0.0, False),
        ("federated fedavg", 2.0, True),
        ("federated fedavg predictor.population-weight=1.0", 0.0, True),
        ("federated fedavg predictor.population-weight=0", 2.0, False),
        ("local", 2.0, False),
    ],
)
def test_whether_answers_are_sent_is_said(method: str, weight: float, disclosed: bool) -> None:
    described = describe_method(method, {"predictor.population-weight": weight})
    assert ("send their answers" in described["reads"]) == disclosed


def test_claims_are_not_judged_by_a_method_that_trains_otherwise() -> None:
    assert differs_in_strategy_alone("federated fedprox strategy.options.proximal-mu=0.1")
    assert not differs_in_strategy_alone("federated fedavg predictor.population-weight=2")
    assert not differs_in_strategy_alone("federated fedavg train.local-steps=12")
    assert not differs_in_strategy_alone("centralized-steps")


def test_a_directory_that_is_no_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is no comparison"):
        load_results(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"cells": []}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    write_comparison(tmp_path / "mine", cells((0,)))
    (tmp_path / "mine" / MANIFEST).write_text(text)
    with pytest.raises(RunDirectoryError, match=r"comparison\.json"):
        load_results(tmp_path / "mine")


def test_the_first_federated_run_that_is_finished_is_found(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "mine", cells(replaced={(AVG, 0, 0): None}))
    assert federated_run(folder) == folder / "cells" / "cell4" / "run"
    nothing = {key: value for key, value in cells().items() if key[0] != AVG}
    assert federated_run(write_comparison(tmp_path / "other", nothing)) is None


def test_everything_that_results_hold_can_be_shown(results: dict[str, Any]) -> None:
    text = to_markdown(results)
    for method in results["methods"]:
        assert f"| {method['label']} |" in text
    assert "nan" not in text.lower().replace("finance", "")
