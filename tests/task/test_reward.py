import math

import numpy as np
import pytest
import torch

from task import context_prediction
from task.context_prediction import predict_contexts
from task.errors import RewardError
from task.predicting import predict_distributions
from task.predictor import PreferencePredictor
from task.reward import RewardModel
from task.survey import Question, Survey, build_survey
from tests.task.reward_examples import (
    CAKE,
    GROUPS,
    MILK,
    SURVEY,
    TEA,
    make_reward,
    make_tiny_predictor,
    oracle_means,
    oracle_shares,
)

# What training groups answered; the last question's options are in another order than asked below.
ASKED = {TEA: [[0.1, 0.9], [0.3, 0.7]], Question("Jam?", ("b", "a", "c")): [[0.2, 0.7, 0.1]]}
WEIGHT = 0.6
PROMPTS = ["Tea?", "Jam?", "Jam?", "Sugar?", "Sugar?", "Tea?"]
RESPONSES = ["yes", "c", "b", "two lumps, please", "one", "no"]
AGAINST = ["no", ["a", "b", "c"], ["c", "a"], "none", ["none", "one", "two", "three"], ["yes"]]
# The same as questions: a response that is not listed comes first.
QUESTIONS = [
    Question("Tea?", ("yes", "no")),
    Question("Jam?", ("a", "b", "c")),
    Question("Jam?", ("b", "c", "a")),
    Question("Sugar?", ("two lumps, please", "none")),
    Question("Sugar?", ("none", "one", "two", "three")),
    Question("Tea?", ("no", "yes")),
]


@pytest.fixture(params=["network alone", "population's answers mixed in"])
def case(request: pytest.FixtureRequest) -> tuple[RewardModel, dict, float]:
    asked, weight = ({}, 0.0) if request.param == "network alone" else (ASKED, WEIGHT)
    return make_reward(make_tiny_predictor(asked, weight)), asked, weight


def by_hand(case: tuple[RewardModel, dict, float], group: str, survey: Survey = SURVEY) -> list:
    """Log-odds of each response against all the other options together."""
    reward, asked, weight = case
    scores = []
    for question, response in zip(QUESTIONS, RESPONSES, strict=True):
        shares = oracle_shares(reward.predictor, survey, group, question, asked, weight)
        share = shares[question.options.index(response)]
        scores.append(math.log(share / (1 - share)))
    return scores


def test_scores_are_log_odds_against_a_reference_or_options(case) -> None:
    for group in GROUPS:
        scores = case[0].score(PROMPTS, RESPONSES, group=group, against=AGAINST)
        assert (scores.dtype, scores.shape) == (torch.float32, (6,))
        np.testing.assert_allclose(scores, by_hand(case, group), atol=1e-5)


def test_without_a_reference_a_score_is_the_responses_own_logit(case) -> None:
    scores = case[0].score(PROMPTS, RESPONSES, group="B")
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        (mean,) = oracle_means(case[0].predictor, SURVEY, "B", Question(prompt, (response,)))
        assert score == pytest.approx(mean, abs=1e-5)


def test_differences_without_a_reference_are_log_odds_of_the_network() -> None:
    reward = make_reward()
    yes, no = reward.score(["Tea?", "Tea?"], ["yes", "no"], group="B")
    against = reward.score(["Tea?"], ["yes"], group="B", against=["no"])
    assert float(yes - no) == pytest.approx(float(against), abs=1e-5)


def test_every_response_may_have_a_group_of_its_own(case) -> None:
    groups = ["C", "A", "B", "A", "C", "B"]
    scores = case[0].score(PROMPTS, RESPONSES, group=groups, against=AGAINST)
    expected = [by_hand(case, group)[row] for row, group in enumerate(groups)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_several_groups_at_once_have_their_scores_in_their_order(case) -> None:
    reward = case[0]
    together = reward.scores(PROMPTS, RESPONSES, ("C", "A"), against=AGAINST)
    expected = np.stack([by_hand(case, "C"), by_hand(case, "A")], axis=1)
    np.testing.assert_allclose(together, expected, atol=1e-5)
    everybody = reward.scores(PROMPTS, RESPONSES, against=AGAINST)
    assert everybody.shape == (6, 3)
    np.testing.assert_allclose(everybody[:, [2, 0]], expected, atol=1e-5)


def test_a_context_given_with_the_call_counts(case) -> None:
    mine = build_survey([MILK, CAKE], [("Me", 1, [0.1, 0.2, 0.3, 0.4]), ("Me", 0, [0.5, 0.2, 0.3])])
    scores = case[0].score(PROMPTS, RESPONSES, context=mine, against=AGAINST)
    np.testing.assert_allclose(scores, by_hand(case, "Me", mine), atol=1e-5)
    of_several = case[0].score(PROMPTS, RESPONSES, context=SURVEY, group="B", against=AGAINST)
    np.testing.assert_allclose(of_several, by_hand(case, "B"), atol=1e-5)
    made = case[0].context_of(SURVEY, "B")
    again = case[0].score(PROMPTS, RESPONSES, context=made, against=AGAINST)
    torch.testing.assert_close(again, of_several)


def test_distributions_are_the_oracles_and_those_of_predict(case) -> None:
    reward, asked, weight = case
    for question in QUESTIONS:
        shares = reward.distribution(question.text, question.options, group="C")
        expected = oracle_shares(reward.predictor, SURVEY, "C", question, asked, weight)
        np.testing.assert_allclose(shares, expected, atol=1e-6)
        assert (shares.dtype, float(shares.sum())) == (torch.float32, pytest.approx(1))
    only = build_survey([TEA], [("A", 0, [0.25, 0.75])])
    predicted = predict_distributions(reward.predictor, only, QUESTIONS)
    for ours, theirs in zip(reward.distributions(QUESTIONS, group="A"), predicted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_portions_change_nothing(case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of 9 options for three groups: 3 each, less than one of the questions has."""
    whole = case[0].scores(PROMPTS, RESPONSES, against=AGAINST)
    sizes = []
    forward = PreferencePredictor.forward

    def measured(self, context_x, context_y, target_x, mask=None):
        sizes.append(target_x.shape[1])
        return forward(self, context_x, context_y, target_x, mask)

    monkeypatch.setattr(PreferencePredictor, "forward", measured)
    monkeypatch.setattr(context_prediction, "MOST_OPTIONS", 9)
    parts = case[0].scores(PROMPTS, RESPONSES, against=AGAINST)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert sizes == [2, 3, 3, 2, 4, 2]


def test_many_responses_take_few_passes_and_no_question_is_lost(monkeypatch) -> None:
    reward = make_reward()
    prompts = [f"Question {index}?" for index in range(700)]
    passes = []
    forward = PreferencePredictor.forward

    def counted(self, *tensors):
        passes.append(tensors[2].shape)
        return forward(self, *tensors)

    monkeypatch.setattr(PreferencePredictor, "forward", counted)
    scores = reward.scores(prompts, ["yes"] * 700, against=[["no", "maybe"]] * 700)
    # 4096 options over 3 groups: 1365, hence 455 questions of 3 options, and the rest.
    assert [(shape[0], shape[1]) for shape in passes] == [(3, 1365), (3, 735)]
    for row in (0, 454, 455, 699):
        question = Question(prompts[row], ("yes", "no", "maybe"))
        share = oracle_shares(reward.predictor, SURVEY, "B", question)[0]
        assert float(scores[row, 1]) == pytest.approx(math.log(share / (1 - share)), abs=1e-5)


def test_the_same_question_is_predicted_once(monkeypatch) -> None:
    reward = make_reward()
    asked = []
    monkeypatch.setattr(
        "task.reward.predict_contexts",
        lambda *given: asked.extend(given[3]) or predict_contexts(*given),
    )
    options = ["yes", "no", "maybe"]
    reward.score(["Tea?"] * 3, options, group="A", against=[options] * 3)
    assert asked == [Question("Tea?", tuple(options))]


@pytest.mark.parametrize("size", [0.0, 1e4])
def test_scores_stay_finite_where_the_network_is_certain(size: float) -> None:
    predictor = make_tiny_predictor()
    with torch.no_grad():
        predictor.mean.weight.mul_(size)
    reward = make_reward(predictor)
    scores = reward.scores(PROMPTS, RESPONSES, against=AGAINST)
    assert scores.isfinite().all()
    limit = -math.log(np.finfo(np.float32).tiny)  # a share of 0 counts as the smallest float
    largest = limit if size else math.log(3)  # one option against three others
    assert float(scores.abs().max()) == pytest.approx(largest, abs=1e-3)


def test_a_share_near_one_keeps_its_log_odds() -> None:
    prediction = context_prediction.Prediction(
        np.zeros(2, np.float32), np.array([1.0, 1e-20], np.float32)
    )
    assert prediction.log_odds(0) == pytest.approx(20 * math.log(10))
    assert prediction.log_odds(1) == pytest.approx(-20 * math.log(10))


def test_nothing_to_score_gives_no_scores() -> None:
    assert make_reward().score([], [], group="A").shape == (0,)
    assert make_reward().score([], [], group=[], against=[]).shape == (0,)
    assert make_reward().scores([], []).shape == (0, 3)
    assert make_reward().distributions([], group="A") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "Atlantis"}, r"^Unknown group 'Atlantis'\. Here: 'A', 'B', 'C'\. Any other"),
        ({"group": "Spian"}, r"Unknown group 'Spian'\. Did you mean 'Spain'\?"),
        ({"group": "Spain"}, r"'Spain' was held out of training, but .* no context of it \(here: "),
        ({"group": "Japan"}, r"'Japan' took part in training, but .* export the run again with"),
        ({}, r"^Whose preferences count\? Give group \(here: 'A', 'B', 'C'\), or context"),
        ({"group": ["A"]}, "1 groups for 2 responses"),
        ({"group": ["A", "D"]}, "Unknown group 'D'"),
        ({"context": SURVEY}, r"context holds 3 groups \(A, B, C\): expected one"),
        ({"context": SURVEY, "group": "D"}, r"context holds no group 'D'\. It holds: A, B, C\."),
        ({"context": SURVEY, "group": ["A", "B"]}, "give no list of groups with it"),
        ({"group": "A", "responses": ["yes", ""]}, "response 1 is empty"),
        ({"group": "A", "responses": ["yes"]}, "1 responses to 2 prompts"),
    ],
)
def test_what_cannot_be_scored_is_one_error(arguments: dict, message: str) -> None:
    reward = make_reward(roles={"Spain": "held-out", "Japan": "train", "A": "train"})
    with pytest.raises(RewardError, match=message) as caught:
        reward.score(["Tea?", "Milk?"], **{"responses": ["yes", "no"], **arguments})
    assert "\n" not in str(caught.value)


def test_without_any_context_the_error_says_so() -> None:
    reward = RewardModel(make_tiny_predictor(), device="cpu")
    with pytest.raises(RewardError, match="holds no context of any"):
        reward.scores(["Tea?"], ["yes"])
    with pytest.raises(RewardError, match=r"Unknown group 'A'\. Here: no group's context"):
        reward.score(["Tea?"], ["yes"], group="A")


def test_a_distribution_needs_two_options() -> None:
    with pytest.raises(RewardError, match="1 options: expected two or more"):
        make_reward().distribution("Tea?", ["yes"], group="A")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_scores() -> None:
    on_cpu = make_reward().scores(PROMPTS, RESPONSES, against=AGAINST)
    on_gpu = make_reward(device="cuda").scores(PROMPTS, RESPONSES, against=AGAINST)
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=0)
