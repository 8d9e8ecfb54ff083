import numpy as np
import pytest
import torch

from alignment.config import PolicySettings
from alignment.evaluation import Answering
from alignment.policy import make_policy, next_token_logits
from alignment.prompts import exercise_of
from alignment.warm_up import exercise_scores, made_up_shares, warm_up
from task.metrics import alignment_score
from task.seeding import generator
from task.survey import Question

OPTIONS = [("Yes", "No"), ("Good", "Bad"), ("Always", "Never"), ("Tea", "Coffee", "Water")]
QUESTIONS = [
    Question(f"{start} {thing}?", options)
    for start in ("What of", "And")
    for thing in ("tea", "rice", "snow")
    for options in OPTIONS
]
SETTINGS = PolicySettings(
    layers=2,
    width=32,
    heads=2,
    vocabulary=400,
    warm_up_steps=300,
    warm_up_batch=16,
    warm_up_learning_rate=0.003,
    device="cpu",
)


@pytest.fixture(scope="module")
def policy():
    made = make_policy(SETTINGS, QUESTIONS, seed=0)
    warm_up(made, QUESTIONS, SETTINGS, seed=0)
    return made


def swapped(question):
    return Question(question.text, question.options[::-1])


def score(found_O, expected_O):
    return float(alignment_score(torch.as_tensor(found_O), torch.as_tensor(expected_O)))


def uniform(question):
    return torch.full((len(question.options),), 1 / len(question.options))


def test_a_warm_model_answers_uniformly_at_random(policy):
    unseen = [swapped(question) for question in QUESTIONS]
    answers = Answering.of(policy, unseen, batch=8)
    scores = [score(p, uniform(q)) for p, q in zip(answers.shares, unseen, strict=True)]
    assert np.mean(scores) > 0.93
    assert answers.outside.max() < 0.1


def test_a_warm_model_reads_options_wherever_they_stand(policy):
    """It gives a made-up person's answers, by whichever letter they have."""
    asked = [*QUESTIONS, *map(swapped, QUESTIONS)]
    with torch.no_grad():
        logits = next_token_logits(policy, [exercise_of(question) for question in asked])
    scores, by_chance = [], []
    for question, logits_V in zip(asked, logits, strict=True):
        expected_O = made_up_shares(question, seed=0)
        found_O = logits_V[policy.letters_A[: len(question.options)]].softmax(0)
        scores.append(score(found_O, expected_O))
        by_chance.append(score(uniform(question), expected_O))
    assert np.mean(scores) > 0.93 > np.mean(by_chance) + 0.1
    told = exercise_scores(policy, asked, seed=0, batch=7)
    assert told == pytest.approx({"base": np.mean(scores), "uniform": np.mean(by_chance)}, abs=1e-4)


def test_made_up_tastes_are_of_words_and_of_the_seed():
    alone = made_up_shares(Question("?", ("green tea", "coffee")), seed=0).log()
    one = made_up_shares(Question("?", ("Green", "coffee")), seed=0).log()
    other = made_up_shares(Question("?", ("tea", "coffee")), seed=0).log()
    odds = [float(log_O[0] - log_O[1]) for log_O in (alone, one, other)]
    coffee = 1.5 * float(generator(0, "made-up taste", "coffee").normal())
    assert odds[0] + coffee == pytest.approx((odds[1] + odds[2] + 2 * coffee) / 2**0.5, abs=1e-4)
    shares = made_up_shares(Question("?", ("+", "-")), seed=0)
    assert 0.5 < float(shares.max()) < 1  # no words: the texts themselves


def test_made_up_people_differ_by_seed_alone():
    shares = made_up_shares(QUESTIONS[0], seed=0)
    assert float(shares.sum()) == pytest.approx(1)
    torch.testing.assert_close(made_up_shares(swapped(QUESTIONS[0]), seed=0), shares.flip(0))
    assert not torch.allclose(made_up_shares(QUESTIONS[0], seed=1), shares)
