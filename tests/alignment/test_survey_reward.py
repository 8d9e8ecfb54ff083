import numpy as np
import pytest
from scipy.special import expit, logit

from alignment.survey_reward import SurveyReward
from task.errors import RewardError
from task.reward_aggregation import AdaptiveAlpha
from task.survey import Question
from tests.alignment.examples import make_reward_model

QUESTION = Question("Best drink?", ("Tea", "Coffee", "Water"))
OTHER = Question("Best meal?", ("Rice", "Bread"))


@pytest.fixture(scope="module")
def model():
    return make_reward_model()


def columns(*questions):
    return {
        "question": [question.text for question in questions],
        "options": [list(question.options) for question in questions],
    }


def shares(model, question, group):
    return model.distributions([question], group=group)[0].astype(np.float64)


def test_the_reward_is_the_log_share_of_the_named_option(model):
    reward = SurveyReward(model, "Japan")
    answers = ["B", " c. Water", "Rice", "tea."]
    asked = [QUESTION, QUESTION, OTHER, QUESTION]
    p, q = shares(model, QUESTION, "Japan"), shares(model, OTHER, "Japan")
    expected = np.log([p[1], 1, q[0], p[0]])
    expected[1] = -10  # a label is upper-case
    assert reward(["?"] * 4, answers, **columns(*asked)) == pytest.approx(expected.tolist())
    assert reward.num_floored == 1


def test_conversations_are_read(model):
    said = [{"role": "assistant", "content": "(A)"}]
    (score,) = SurveyReward(model, "Kenya")([[]], [said], **columns(QUESTION))
    assert score == pytest.approx(np.log(shares(model, QUESTION, "Kenya")[0]))


def test_each_row_is_scored_for_its_own_group(model):
    scores = SurveyReward(model)(
        ["?"] * 2, ["A", "A"], group=["Brazil", "Kenya"], **columns(QUESTION, QUESTION)
    )
    expected = [np.log(shares(model, QUESTION, group)[0]) for group in ("Brazil", "Kenya")]
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["mean", "min", "max", "nash"])
def test_groups_are_aggregated_as_log_odds(model, rule):
    groups = ("Brazil", "Japan", "Kenya")
    P = np.stack([shares(model, QUESTION, group) for group in groups], axis=1)
    expected = {
        "mean": np.log(expit(logit(P).mean(1))),
        "min": np.log(P.min(1)),
        "max": np.log(P.max(1)),
        "nash": np.log(P).mean(1),  # so that its softmax is the geometric mean
    }[rule]
    reward = SurveyReward(model, groups, aggregation=rule)
    found = reward(["?"] * 3, ["A", "B", "C"], **columns(*[QUESTION] * 3))
    assert found == pytest.approx(expected.tolist(), rel=1e-6)
    assert reward.of_options(QUESTION) == pytest.approx(expected, rel=1e-6)


def test_looking_at_options_teaches_adaptive_alpha_nothing(model):
    groups = ("Brazil", "Japan")
    rule = AdaptiveAlpha(temperature=0.1)
    reward = SurveyReward(model, groups, aggregation=rule)
    P = np.stack([shares(model, QUESTION, group) for group in groups], axis=1)
    assert reward.of_options(QUESTION) == pytest.approx(np.log(expit(logit(P).mean(1))))
    assert rule.alignment == {}
    reward(["?"] * 2, ["A", "B"], **columns(QUESTION, QUESTION))
    weights = np.exp((1 - P[:2].mean(0)) / 0.1)
    weights /= weights.sum()
    assert reward.of_options(QUESTION) == pytest.approx(np.log(expit(logit(P) @ weights)))


def test_answers_are_predicted_once(model, monkeypatch):
    calls = []
    predict = model.distributions
    monkeypatch.setattr(
        model,
        "distributions",
        lambda q, group: calls.append((list(q), group)) or predict(q, group=group),
    )
    reward = SurveyReward(model, ["Japan", "Kenya"])
    reward.prepare([QUESTION, OTHER])
    assert reward.seconds > 0  # predicting is part of what the reward costs
    for _ in range(2):
        reward(["?"] * 3, ["A", "B", "A"], **columns(QUESTION, QUESTION, OTHER))
    assert calls == [([QUESTION, OTHER], "Japan"), ([QUESTION, OTHER], "Kenya")]


def test_what_is_missing_or_unknown_is_named(model):
    with pytest.raises(RewardError, match="no column 'question'"):
        SurveyReward(model, "Japan")(["?"], ["A"])
    with pytest.raises(RewardError, match="no column 'group'"):
        SurveyReward(model)(["?"], ["A"], **columns(QUESTION))
    with pytest.raises(RewardError, match="Unknown group 'Peru'"):
        SurveyReward(model, "Peru")
    with pytest.raises(RewardError, match="Unknown group 'Peru'"):
        SurveyReward(model)(["?"], ["A"], group=["Peru"], **columns(QUESTION))
    with pytest.raises(RewardError, match="each row has its own group"):
        SurveyReward(model).of_options(QUESTION)
