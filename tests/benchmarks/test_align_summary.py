import pytest

from benchmarks.align_summary import summary

FIGURES = {"win_rate": 0.6, "kl_answers": 0.1, "similarity_to_optimum": 0.9, "outside": 0.0}
TRAINING = {
    "reward_share_of_step": 0.01,
    "scored_pairs_per_second": 1000.0,
    "generated_completions_per_second": 100.0,
}


def of_seed(base, **after):
    def entry(scores):
        alignment = {"groups": scores, "worst": min(scores.values())}
        optimum = {
            "groups": {g: 2 * s for g, s in scores.items()},
            "worst": 2 * min(scores.values()),
        }
        return {"alignment": alignment, "optimum": optimum, "training": TRAINING, **FIGURES}

    return {
        "base": {"groups": base, "worst": min(base.values())},
        "targets": {name: entry(scores) for name, scores in after.items()},
    }


def test_gains_and_claims_are_paired_by_seed():
    base = {"A": 0.5, "B": 0.6, "C": 0.7}
    runs = {
        0: of_seed(
            base,
            **{
                "group:B": {"A": 0.5, "B": 0.8, "C": 0.7},
                "mean": {"A": 0.55, "B": 0.7, "C": 0.75},
                "min": {"A": 0.6, "B": 0.65, "C": 0.7},
            },
        ),
        1: of_seed(
            base,
            **{
                "group:B": {"A": 0.7, "B": 0.7, "C": 0.7},
                "mean": {"A": 0.55, "B": 0.7, "C": 0.75},
                "min": {"A": 0.6, "B": 0.75, "C": 0.7},
            },
        ),
    }
    found = summary(runs, ["B"])
    assert found["gain"]["group:B"]["B"]["mean"] == pytest.approx((0.2 + 0.1) / 2)
    assert found["mean_gain"]["mean"]["mean"] == pytest.approx(0.2 / 3)
    assert found["worst_gain"]["min"]["mean"] == pytest.approx(0.1)
    # Of two values the 95 % t interval is the mean and 12.7062 times half their difference.
    own = found["one_group"]["own_gain_minus_mean_gain_of_others"]
    assert own["mean"] == pytest.approx((0.2 + 0.0) / 2)
    assert own["high"] - own["mean"] == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert found["one_group"]["own_gain_is_largest"] == 1 and found["one_group"]["of"] == 2
    under = found["one_group"]["own_gain_minus_its_gain_under"]
    assert {t: v["mean"] for t, v in under.items()} == pytest.approx({"mean": 0.05, "min": 0.05})
    worst = found["maximin"]["worst_gain_minus_that_under"]
    assert worst["group:B"]["mean"] == pytest.approx(0.1 - (0.0 + 0.2) / 2)
    assert worst["mean"]["mean"] == pytest.approx(0.05)
    best = found["of_the_optimum"]
    assert best["gain"]["group:B"]["B"]["mean"] == pytest.approx(2 * 0.75 - 0.6)
    assert best["worst_gain"]["min"]["mean"] == pytest.approx(2 * 0.6 - 0.5)


def test_a_single_seed_has_no_interval():
    run = of_seed({"A": 0.5}, mean={"A": 0.6})
    found = summary({0: run}, ["B"])
    assert found["gain"]["mean"]["A"] == pytest.approx({"mean": 0.1})
    assert "one_group" not in found and "maximin" not in found


def test_groups_that_are_each_aligned_to_alone_are_averaged_in_each_run():
    run = of_seed(
        {"A": 0.5, "B": 0.5, "C": 0.5},
        **{
            "group:A": {"A": 0.8, "B": 0.5, "C": 0.6},
            "group:B": {"A": 0.6, "B": 0.7, "C": 0.8},
            "mean": {"A": 0.6, "B": 0.6, "C": 0.6},
        },
    )
    found = summary({0: run}, ["A", "B"])["one_group"]
    assert found["own_gain_minus_mean_gain_of_others"]["mean"] == pytest.approx(
        (0.3 - (0.0 + 0.1) / 2 + 0.2 - (0.1 + 0.3) / 2) / 2
    )
    assert (found["own_gain_is_largest"], found["of"]) == (1, 2)
    assert found["own_gain_minus_its_gain_under"] == {
        "mean": {"mean": pytest.approx((0.2 + 0.1) / 2)}
    }
