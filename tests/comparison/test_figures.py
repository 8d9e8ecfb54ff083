import json
import math

import pytest

from comparison.figures import MethodFigures, interval
from task.metrics import Fairness, Mean
from tests.comparison.examples import result, scores_of

CURVE = (0.5, 0.96, 1.0)
SEED_0 = result({"A": 0.9, "B": 0.8, "C": 0.7, "D": 0.5}, curve=CURVE)
SEED_1 = result({"A": 0.8, "B": 0.8, "C": 0.7, "D": 0.7}, curve=CURVE)
# Every group is held out in one of two folds.
FOLDS = [
    result({"A": 0.9, "B": 0.8, "C": 0.6, "D": 0.4}, held_out=("A", "B"), curve=CURVE),
    result({"A": 0.7, "B": 0.6, "C": 0.5, "D": 0.3}, held_out=("C", "D"), curve=CURVE),
]


def figures(*seeds, intervals=True):
    by_seed = {
        seed: given if isinstance(given, list) else [given] for seed, given in enumerate(seeds)
    }
    return MethodFigures(by_seed, intervals=intervals)


def means(table):
    return {metric: value and value["mean"] for metric, value in table.items()}


# -- intervals -------------------------------------------------------------------------------------


def test_an_interval_holds_the_mean_and_the_value_of_each_seed():
    measured = interval([0.2, 0.4], intervals=True)
    assert measured == {
        "mean": pytest.approx(0.3),
        "low": pytest.approx(0.2),
        "high": pytest.approx(0.4),
        "per_seed": [0.2, 0.4],
    }


def test_without_intervals_bounds_are_none():
    assert interval([0.2, 0.4], intervals=False) == {
        "mean": pytest.approx(0.3),
        "low": None,
        "high": None,
        "per_seed": [0.2, 0.4],
    }
    assert figures(SEED_0).table()["held_out"]["alignment_score"]["low"] is None  # one seed


# -- table -----------------------------------------------------------------------------------------


def test_the_table_equals_numbers_computed_by_hand():
    table = figures(SEED_0, SEED_1).table()
    held_out, train = means(table["held_out"]), means(table["train"])
    assert held_out["alignment_score"] == pytest.approx((0.6 + 0.7) / 2)
    assert held_out["worst_group"] == pytest.approx((0.5 + 0.7) / 2)
    assert held_out["gap"] == pytest.approx(0.1)
    assert held_out["cov"] == pytest.approx((0.1 / 0.6) / 2)
    assert held_out["fairness_index"] == pytest.approx((1 / (1 + 1 / 36) + 1) / 2)
    assert held_out["top_option_accuracy"] == pytest.approx(0.5)
    assert held_out["calibration_error"] == pytest.approx(0.5 / 20)
    assert train["alignment_score"] == pytest.approx((0.85 + 0.8) / 2)
    assert table["held_out"]["alignment_score"]["per_seed"] == pytest.approx([0.6, 0.7])
    assert (table["held_out"]["alignment_score"]["low"], table["held_out"]["gap"]["high"]) == (
        pytest.approx(0.6),
        pytest.approx(0.2),
    )


def test_convergence_is_measured_on_each_seeds_mean_curve():
    held_out = means(figures(SEED_0, SEED_1).table()["held_out"])
    assert (held_out["rounds_to_95"], held_out["steps_to_95"]) == (1, 2)  # 0.96 of the last
    assert (held_out["rounds_to_95_of_gain"], held_out["steps_to_95_of_gain"]) == (2, 4)  # 0.92


def test_the_cost_is_that_of_the_last_point():
    cost = means(figures(SEED_0, SEED_1).table()["cost"])
    assert cost == {
        "rounds": 2,
        "optimizer_steps": 4,
        "episodes": 12,
        "seconds": 2.0,
        "megabytes": 20.0,
    }


def test_what_does_not_learn_step_by_step_has_neither_curve_nor_convergence_nor_cost():
    flat = result({"A": 0.9, "C": 0.7})
    shown = figures(flat, flat)
    assert shown.curve() == []
    table = shown.table()
    assert table["held_out"]["alignment_score"]["mean"] == pytest.approx(0.7)
    assert [metric for metric, value in table["held_out"].items() if value is None] == [
        "rounds_to_95",
        "steps_to_95",
        "rounds_to_95_of_gain",
        "steps_to_95_of_gain",
    ]
    assert set(table["cost"].values()) == {None}


def test_a_role_without_groups_has_no_entries():
    alone = result({"A": 0.9, "B": 0.8}, held_out=(), curve=CURVE)
    shown = figures(alone, alone)
    assert shown.table()["held_out"] == {}
    assert shown.curve()[0]["held_out"] is None
    assert shown.curve()[0]["train"]["mean"] == pytest.approx(0.425)
    assert [entry["options"] for entry in shown.reliability()] == [80.0]  # the training groups'


def test_a_split_of_questions_that_some_seed_lacks_is_none():
    with_new, without = (result({"A": 0.9, "C": 0.7}) for _ in range(2))
    without.scores["C"] = scores_of(0.7, new=0)
    table = figures(with_new, without).table()["held_out"]
    assert table["alignment_score_new_questions"] is None
    assert table["alignment_score_seen_questions"]["mean"] == pytest.approx(0.7)


# -- folds -----------------------------------------------------------------------------------------


def test_folds_of_a_seed_are_one_table_in_which_every_group_is_held_out_once():
    table = means(figures(FOLDS, FOLDS).table()["held_out"])
    scores = {"A": 0.9, "B": 0.8, "C": 0.5, "D": 0.3}
    expected = Fairness.of(scores)
    assert table["alignment_score"] == pytest.approx(expected.mean)
    assert table["worst_group"] == 0.3
    assert table["fairness_index"] == pytest.approx(expected.fairness_index)
    train = means(figures(FOLDS, FOLDS).table()["train"])
    assert train["alignment_score"] == pytest.approx((0.7 + 0.6 + 0.6 + 0.4) / 4)


def test_a_group_that_trains_in_several_folds_has_the_mean_over_all_of_them():
    three = [
        result({"A": 0.9, "B": 0.2, "C": 0.5}, held_out=("A",)),
        result({"A": 0.4, "B": 0.7, "C": 0.5}, held_out=("B",)),
        result({"A": 0.8, "B": 0.2, "C": 0.6}, held_out=("C",)),
    ]
    shown = figures(three)
    assert shown.scores(0, "train")["A"].all == Mean(pytest.approx(12.0), 20.0)
    assert {group: s.all.value for group, s in shown.scores(0, "held-out").items()} == {
        "A": pytest.approx(0.9),
        "B": pytest.approx(0.7),
        "C": pytest.approx(0.6),
    }
    groups = shown.groups()
    assert groups["A"]["role"] == "both"
    assert groups["A"]["alignment_score"]["mean"] == pytest.approx(0.9)  # where it is held out


def test_the_curve_of_folds_shows_each_group_from_where_it_is_held_out():
    last = figures(FOLDS, FOLDS).curve()[-1]
    assert last["groups"] == pytest.approx({"A": 0.9, "B": 0.8, "C": 0.5, "D": 0.3})
    assert last["held_out"]["mean"] == pytest.approx(0.625)
    assert last["train"]["mean"] == pytest.approx((0.6 + 0.4 + 0.7 + 0.6) / 4)


# -- curves, groups, few-shot, reliability ---------------------------------------------------------


def test_curves_are_means_over_seeds_with_their_position():
    points = figures(SEED_0, SEED_1).curve()
    assert [entry["round"] for entry in points] == [0, 1, 2]
    assert [entry["optimizer_steps"] for entry in points] == [0, 2, 4]
    assert points[1]["held_out"]["per_seed"] == pytest.approx([0.96 * 0.6, 0.96 * 0.7])
    assert points[1]["groups"]["D"] == pytest.approx(0.96 * 0.6)
    assert (points[2]["seconds"], points[2]["megabytes"]) == (2.0, 20.0)


def test_a_curve_goes_as_far_as_all_seeds_do():
    short = result({"A": 0.9, "C": 0.7}, curve=(0.5, 1.0))
    assert len(figures(SEED_0, short).curve()) == 2


def test_groups_have_a_role_and_scores_over_seeds():
    groups = figures(SEED_0, SEED_1).groups()
    assert list(groups) == ["A", "B", "C", "D"]
    assert [entry["role"] for entry in groups.values()] == [
        "train",
        "train",
        "held-out",
        "held-out",
    ]
    assert groups["D"]["alignment_score"]["per_seed"] == pytest.approx([0.5, 0.7])
    assert groups["D"]["alignment_score_new_questions"] == pytest.approx(0.6)
    no_new = result({"A": 0.9, "C": 0.7})
    no_new.scores["C"] = scores_of(0.7, new=0)
    assert figures(no_new).groups()["C"]["alignment_score_new_questions"] is None


def test_few_shot_curves_are_means_over_groups_and_folds_then_over_seeds():
    one = [
        result({"A": 0.5, "C": 0.5}, few_shot={0: {"A": 0.2, "C": 0.4}, 5: {"A": 0.6, "C": 0.6}}),
        result({"A": 0.5, "C": 0.5}, few_shot={0: {"B": 0.6}, 5: {"B": 0.9}}),
    ]
    other = [result({"A": 0.5, "C": 0.5}, few_shot={0: {"A": 0.8}, 5: {"A": 0.8}, 50: {}})] * 2
    sizes = figures(one, other).few_shot()
    assert list(sizes) == ["0", "5"]  # 50: no group has so many questions
    assert sizes["0"]["per_seed"] == pytest.approx([0.4, 0.8])
    assert sizes["5"]["mean"] == pytest.approx(0.75)
    assert figures(SEED_0).few_shot() == {}


def test_few_shot_sizes_are_in_the_order_of_numbers():
    many = result({"C": 0.5}, few_shot={size: {"C": 0.5} for size in (20, 5, 0, 100)})
    assert list(figures(many, many).few_shot()) == ["0", "5", "20", "100"]


def test_reliability_pools_the_held_out_groups_options_of_all_seeds():
    (entry,) = figures(SEED_0, SEED_1).reliability()  # the other nine bins are empty
    assert entry == {
        "predicted": pytest.approx(4 * 1.0 / 80),
        "true": pytest.approx(4 * 1.5 / 80),
        "options": 80.0,
    }


def test_no_number_of_the_figures_is_unknown_to_json():
    sparse = result({"A": 0.9, "C": 0.7}, curve=(0.0, 1.0))
    sparse.scores["C"] = scores_of(0.7, new=0)
    for shown in (figures(sparse), figures(sparse, SEED_0), figures(FOLDS, FOLDS)):
        everything = [
            shown.table(),
            shown.curve(),
            shown.groups(),
            shown.few_shot(),
            shown.reliability(),
        ]
        json.dumps(everything, allow_nan=False)
    assert math.isnan(sparse.scores["C"].new.value)
