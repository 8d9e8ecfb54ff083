import pytest

from comparison.claims import VERDICTS, judge_claims, verdict_on

FEDERATED = {
    "rounds_to_95": [5.0, 5.0],
    "steps_to_95": [30.0, 30.0],
    "alignment_score": [0.84, 0.84],
    "fairness_index": [0.99, 0.99],
}
CENTRALIZED = {
    "rounds_to_95": [10.0, 10.0],
    "steps_to_95": [10.0, 10.0],
    "alignment_score": [0.80, 0.80],
    "fairness_index": [0.99, 0.99],
}
NAMES = {
    "rounds": "46 % faster convergence",
    "steps": "46 % faster convergence, in optimizer steps",
    "score": "4 % better alignment",
    "fairness": "equal group fairness",
}


def judged(federated=None, centralized=None, *, intervals=True):
    claims = judge_claims(
        {**FEDERATED, **(federated or {})},
        {"Centralized": {**CENTRALIZED, **(centralized or {})}},
        intervals=intervals,
    )
    assert [claim["claim"] for claim in claims] == list(NAMES.values())
    return {short: claims[number] for number, short in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (46, 60, "reproduced"),
        (50, 60, "reproduced"),
        (1, 46, "compatible"),
        (45.9, 80, "compatible"),
        (1, 45.9, "smaller than claimed"),
        (0, 50, "not settled"),
        (-10, 50, "not settled"),
        (-10, 0, "not reproduced"),
        (-10, -0.1, "contradicted"),
    ],
)
def test_verdicts_are_about_the_whole_interval(low, high, verdict):
    assert verdict_on(low, high, 46) == verdict
    assert verdict in VERDICTS


def test_advantages_are_relative_and_in_percent():
    claims = judged()
    assert claims["rounds"]["measured"]["per_seed"] == pytest.approx([50, 50])
    assert claims["steps"]["measured"]["mean"] == pytest.approx(-200)
    assert claims["score"]["measured"]["mean"] == pytest.approx(5)
    assert claims["fairness"]["measured"]["mean"] == 0
    assert {claim["versus"] for claim in claims.values()} == {"Centralized"}


def test_each_claim_has_its_own_verdict():
    verdicts = {short: claim["verdict"] for short, claim in judged().items()}
    assert verdicts == {
        "rounds": "reproduced",
        "steps": "contradicted",
        "score": "reproduced",
        "fairness": "reproduced",
    }
    assert judged()["steps"]["explanation"] == "The whole interval is on the other side of 0."


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([0.84, 0.83], "compatible"),  # 5 % and 3.75 %
        ([0.81, 0.82], "smaller than claimed"),
        ([0.79, 0.84], "not settled"),
        ([0.70, 0.79], "contradicted"),
    ],
)
def test_verdicts_on_better_alignment(scores, verdict):
    assert judged({"alignment_score": scores})["score"]["verdict"] == verdict


@pytest.mark.parametrize(
    ("indices", "verdict"),
    [
        ([0.995, 0.985], "reproduced"),
        ([0.995, 0.970], "not settled"),
        ([0.970, 0.975], "contradicted"),
        ([0.999, 0.999], "reproduced"),
    ],
)
def test_equal_fairness_is_shown_by_a_small_interval(indices, verdict):
    assert judged({"fairness_index": indices})["fairness"]["verdict"] == verdict


def test_a_fairer_federated_training_contradicts_equality_as_well():
    claim = judged(centralized={"fairness_index": [0.95, 0.96]})["fairness"]
    assert claim["verdict"] == "contradicted"


def test_one_seed_gets_no_verdict():
    for claim in judged(intervals=False).values():
        assert claim["verdict"] == "one seed"
        assert claim["measured"]["low"] is claim["measured"]["high"] is None


def test_nothing_can_be_saved_of_what_is_good_before_it_starts():
    claims = judged(centralized={"rounds_to_95": [0.0, 4.0]})
    assert claims["rounds"]["verdict"] == "not measurable"
    assert claims["rounds"]["measured"] == {
        "mean": None,
        "low": None,
        "high": None,
        "per_seed": [],
    }
    assert claims["steps"]["verdict"] == "contradicted"


def test_every_way_to_train_centrally_is_judged():
    claims = judge_claims(FEDERATED, {"rounds": CENTRALIZED, "steps": CENTRALIZED}, intervals=True)
    assert [claim["versus"] for claim in claims] == ["rounds"] * 4 + ["steps"] * 4
    assert judge_claims(FEDERATED, {}, intervals=True) == []
