import numpy as np
import pytest
import torch

from alignment.config import PolicySettings
from alignment.evaluation import Answering
from alignment.policy import make_policy, next_token_logits
from alignment.prompts import exercise_of
from alignment.warm_up import made_up_shares, warm_up
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
    warm_up_steps=160,
    warm_up_batch=16,
    warm_up_learning_rate=0.01,
    device="cpu",
)


@pytest.fixture(scope="module")
def policy():
    made = make_policy(SETTINGS, QUESTIONS, seed=0)
    warm_up(made, QUESTIONS, SETTINGS, seed=0)
    return made


def swapped(question):
    return Question(question.text, question.options[::-1])


def test_a_warm_model_answers_uniformly_at_random(policy):
    unseen = [swapped(question) for question in QUESTIONS]
    answers = Answering.of(policy, unseen, batch=8)
    for question, shares in zip(unseen, answers.shares, strict=True):
        size = len(question.options)
        np.testing.assert_allclose(shares, [1 / size] * size, atol=0.1)
    assert answers.outside.max() < 0.1


def test_a_warm_model_reads_options_wherever_they_stand(policy):
    """A made-up person's favourite, by whichever letter it has."""
    for question in QUESTIONS:
        for asked in (question, swapped(question)):
            with torch.no_grad():
                logits = next_token_logits(policy, [exercise_of(asked)])[0]
            chosen = logits[policy.letters_A[: len(asked.options)]].argmax()
            assert chosen == made_up_shares(asked, seed=0).argmax()


def test_made_up_tastes_are_of_texts_and_of_the_seed():
    shares = made_up_shares(QUESTIONS[0], seed=0)
    assert float(shares.sum()) == pytest.approx(1)
    torch.testing.assert_close(made_up_shares(swapped(QUESTIONS[0]), seed=0), shares.flip(0))
    assert not torch.allclose(made_up_shares(QUESTIONS[0], seed=1), shares)
