import math

import pytest

from server_app.fairness import group_table, indices, number, summarise
from task.metrics import NUM_BINS, Calibration, GroupScores, Mean

ROLES = {"A": "train", "B": "held-out", "C": "held-out"}


def binned(options: float, predicted: float, true: float) -> Calibration:
    """Options that all lie in the first bin."""
    rest = (0.0,) * (NUM_BINS - 1)
    return Calibration((options, *rest), (predicted, *rest), (true, *rest))


SCORES = {
    "A": GroupScores(Mean(9.0, 10), Mean(9.0, 10), Mean(), Mean(7.0, 10), binned(20, 1.0, 2.0)),
    "B": GroupScores(
        Mean(8.0, 10), Mean(2.0, 4), Mean(6.0, 6), Mean(5.0, 10), binned(20, 1.0, 1.5)
    ),
    "C": GroupScores(Mean(2.0, 5), Mean(), Mean(2.0, 5), Mean(1.0, 5), binned(10, 1.0, 0.2)),
}


def test_a_role_is_summed_up_over_its_own_groups() -> None:
    # B scores 0.8 and C 0.4: mean 0.6, standard deviation 0.2, CoV 1/3, FI 1 / (1 + 1/9)
    summary = summarise(SCORES, ROLES, "held-out")
    new = summary.pop("new_questions")  # B scores 1.0 and C 0.4
    assert (new["alignment_score"], new["worst_group_name"]) == (pytest.approx(0.7), "C")
    assert new["cov"] == pytest.approx(0.3 / 0.7)
    assert summary.pop("seen_questions")["gap"] == 0  # B alone has them
    assert summary == {
        "alignment_score": pytest.approx(0.6),
        "alignment_score_seen_questions": pytest.approx(0.5),  # B's alone: C has none
        "alignment_score_new_questions": pytest.approx(0.7),
        "worst_group": pytest.approx(0.4),
        "worst_group_name": "C",
        "worst_decile": pytest.approx(0.4),  # of two groups: the worst
        "gap": pytest.approx(0.4),
        "cov": pytest.approx(1 / 3),
        "fairness_index": pytest.approx(0.9),
        "top_option_accuracy": pytest.approx((0.5 + 0.2) / 2),
        # pooled: 30 options, 2.0 predicted, 1.7 true; B's excess and C's lack partly cancel
        "calibration_error": pytest.approx(0.3 / 30),
    }


def test_groups_without_a_score_have_no_part_in_the_indices() -> None:
    found = indices({"A": 0.75, "B": math.nan, "C": 0.25})
    assert (found["alignment_score"], found["worst_group_name"]) == (0.5, "C")
    assert indices({"B": math.nan}) == indices({}) == {}


def test_a_split_without_questions_is_none() -> None:
    summary = summarise(SCORES, ROLES, "train")
    assert summary["alignment_score"] == summary["alignment_score_seen_questions"] == 0.9
    assert summary["alignment_score_new_questions"] is None
    assert summary["new_questions"] == {}
    assert (summary["gap"], summary["cov"], summary["fairness_index"]) == (0, 0, 1)


def test_a_role_without_groups_is_none() -> None:
    alone = {"A": SCORES["A"]}
    assert summarise(alone, ROLES, "held-out") is None


def test_the_group_table_puts_baselines_beside_the_model_in_name_order() -> None:
    baselines = {"uniform": {group: GroupScores(Mean(1.0, 4)) for group in SCORES}}
    table = group_table(dict(reversed(SCORES.items())), baselines, ROLES)
    assert list(table) == ["A", "B", "C"]
    assert table["C"] == {
        "role": "held-out",
        "alignment_score": 0.4,
        "alignment_score_seen_questions": None,
        "alignment_score_new_questions": 0.4,
        "top_option_accuracy": 0.2,
        "calibration_error": pytest.approx(0.8 / 10),
        "uniform": 0.25,
    }


def test_scores_without_bins_or_top_options_have_none_of_their_figures() -> None:
    bare = {"A": GroupScores(Mean(9.0, 10))}
    summary = summarise(bare, ROLES, "train")
    assert summary["top_option_accuracy"] is summary["calibration_error"] is None
    entry = group_table(bare, {}, ROLES)["A"]
    assert entry["top_option_accuracy"] is entry["calibration_error"] is None


def test_nan_is_not_a_number_for_json() -> None:
    assert number(math.nan) is None
    assert number(0.5) == 0.5
