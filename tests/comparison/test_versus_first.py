import json
from pathlib import Path
from typing import Any

import pytest

from comparison.results import load_results
from comparison.versus_first import METRICS, NOTE, versus_first
from tests.comparison.examples import result, write_comparison

AVG, AFL, TERM = "federated fedavg", "federated afl", "federated term strategy.options.tilt=2"
T1 = 12.706205  # t of 1 degree of freedom, of a two-sided 95 % interval


def cell(c: float, d: float, train: float = 0.5) -> list[Any]:
    """One fold, with two held-out groups and a training group."""
    return [result({"A": train, "C": c, "D": d})]


# Means 0.7 and 0.8 against 0.8 and 0.95.
FIRST = {0: cell(0.6, 0.8), 1: cell(0.7, 0.9)}
OTHER = {0: cell(0.7, 0.9, train=0.75), 1: cell(0.9, 1.0, train=0.5)}


def compared(by_method: dict[str, Any], *methods: str, intervals: bool = True) -> dict[str, Any]:
    return versus_first(methods or tuple(by_method), by_method, intervals=intervals)


def test_differences_worked_out_by_hand() -> None:
    found = compared({AVG: FIRST, AFL: OTHER})
    assert found["versus"] == AVG
    assert found["note"] == NOTE
    entry = found["roles"]["held_out"][AFL]
    assert tuple(entry) == METRICS
    cov = [0.1 / 0.8 - 0.1 / 0.7, 0.05 / 0.95 - 0.1 / 0.8]
    fairness = [
        1 / (1 + 1 / 64) - 1 / (1 + 1 / 49),
        1 / (1 + 1 / 361) - 1 / (1 + 1 / 64),
    ]
    expected = {
        "alignment_score": [0.1, 0.15],
        "worst_group": [0.1, 0.2],
        "worst_decile": [0.1, 0.2],
        "cov": cov,
        "fairness_index": fairness,
    }
    for metric, (one, two) in expected.items():
        assert entry[metric]["per_seed"] == pytest.approx([one, two]), metric
        assert entry[metric]["mean"] == pytest.approx((one + two) / 2), metric
        # of two values the standard deviation of the mean is half of their distance
        half = T1 * abs(two - one) / 2
        limits = ((one + two) / 2 - half, (one + two) / 2 + half)
        assert (entry[metric]["low"], entry[metric]["high"]) == pytest.approx(limits), metric
    score = entry["alignment_score"]
    assert (score["low"], score["high"]) == pytest.approx((-0.192655, 0.442655), abs=1e-6)
    train = found["roles"]["train"][AFL]["alignment_score"]
    assert train["per_seed"] == pytest.approx([0.25, 0.0])


def test_all_federated_methods_are_compared_with_the_first_and_no_others() -> None:
    found = compared(
        {"uniform": FIRST, AFL: OTHER, "centralized-rounds": FIRST, AVG: FIRST, TERM: OTHER}
    )
    assert found["versus"] == AFL
    assert list(found["roles"]) == ["held_out", "train"]
    for methods in found["roles"].values():
        assert list(methods) == [AVG, TERM]
    held_out = found["roles"]["held_out"]
    assert held_out[AVG]["alignment_score"]["per_seed"] == pytest.approx([-0.1, -0.15])
    same = held_out[TERM]["alignment_score"]
    assert (same["mean"], same["low"], same["high"]) == (0, 0, 0)


@pytest.mark.parametrize("there", [{}, {AVG: {}}])
def test_without_any_result_of_the_first_nothing_takes_its_place(there: dict[str, Any]) -> None:
    found = compared({**there, AFL: OTHER, TERM: FIRST}, AVG, AFL, TERM)
    assert found == {"versus": AVG, "roles": {}, "note": NOTE}


def test_a_method_without_results_is_left_out() -> None:
    found = compared({AVG: FIRST, TERM: OTHER}, AVG, AFL, TERM)
    assert [list(methods) for methods in found["roles"].values()] == [[TERM], [TERM]]


def test_without_two_federated_methods_there_is_nothing_to_compare() -> None:
    assert compared({"uniform": FIRST}) == {"versus": "", "roles": {}, "note": NOTE}
    assert compared({"uniform": FIRST, AVG: FIRST})["roles"] == {}


def test_seeds_that_only_one_has_do_not_count() -> None:
    first = {**FIRST, 2: cell(0.1, 0.1)}
    other = {7: cell(0.2, 0.2), **OTHER}
    assert compared({AVG: first, AFL: other}) == compared({AVG: FIRST, AFL: OTHER})
    assert compared({AVG: {0: FIRST[0]}, AFL: {1: OTHER[1]}})["roles"] == {}


def test_seeds_are_paired_whatever_their_order() -> None:
    backwards = {1: OTHER[1], 0: OTHER[0]}
    assert compared({AVG: FIRST, AFL: backwards}) == compared({AVG: FIRST, AFL: OTHER})


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_one_seed_or_no_wish_for_intervals_gives_none(seeds: tuple[int, ...]) -> None:
    first, other = ({seed: each[seed] for seed in seeds} for each in (FIRST, OTHER))
    found = compared({AVG: first, AFL: other}, intervals=len(seeds) == 1)
    for methods in found["roles"].values():
        for entry in methods[AFL].values():
            assert (entry["low"], entry["high"]) == (None, None)
            assert len(entry["per_seed"]) == len(seeds)


def test_folds_of_a_seed_are_put_together() -> None:
    """Every group is held out in one of them: worst of four, not of two."""
    first, other = (
        {
            0: [
                result({"A": a, "B": 0.5, "C": 0.9, "D": 0.9}, held_out=("A", "B")),
                result({"A": 0.9, "B": 0.9, "C": c, "D": 0.7}, held_out=("C", "D")),
            ]
        }
        for a, c in ((0.4, 0.6), (0.8, 0.3))
    )
    entry = compared({AVG: first, AFL: other})["roles"]["held_out"][AFL]
    assert entry["worst_group"]["per_seed"] == pytest.approx([0.3 - 0.4])
    assert entry["alignment_score"]["per_seed"] == pytest.approx([(2.3 - 2.2) / 4])


def test_without_held_out_groups_the_training_groups_are_compared() -> None:
    first, other = ({0: [result({"A": score}, held_out=())]} for score in (0.5, 0.75))
    found = compared({AVG: first, AFL: other})
    assert list(found["roles"]) == ["train"]
    assert found["roles"]["train"][AFL]["worst_group"]["mean"] == 0.25


def test_results_of_a_comparison_hold_it_and_the_first_is_that_which_was_named_first(
    tmp_path: Path,
) -> None:
    given = {(AVG, seed, 0): each for seed, (each,) in FIRST.items()}
    given |= {(AFL, seed, 0): each for seed, (each,) in OTHER.items()}
    results = load_results(write_comparison(tmp_path / "all", given))
    assert results["versus_first"] == compared({AVG: FIRST, AFL: OTHER})
    json.dumps(results["versus_first"], allow_nan=False)
    unfinished = {key: None if key[0] == AVG else each for key, each in given.items()}
    results = load_results(write_comparison(tmp_path / "part", unfinished))
    assert results["versus_first"] == {"versus": AVG, "roles": {}, "note": NOTE}
