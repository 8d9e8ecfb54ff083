import numpy as np
import pytest
import torch

from alignment.evaluation import (
    Answering,
    alignment,
    best_of_n,
    divergences,
    optimum,
    similarity,
    win_rate,
)
from alignment.policy import Policy, letter_tokens
from task.metrics import alignment_score
from task.survey import Question
from tests.alignment.examples import make_policy, make_tokenizer

TEA = Question("Tea?", ("Yes", "No"))
LONG = Question("Which drink do you like best of all?", ("Tea", "Coffee", "Water", "None"))


def answering(*shares, outside=0.0):
    shares = [np.array(p, dtype=np.float64) for p in shares]
    return Answering(shares, np.full(len(shares), outside))


def score(p, q):
    return float(alignment_score(torch.tensor(p), torch.tensor(q)))


@pytest.fixture(scope="module")
def policy():
    tokenizer = make_tokenizer()
    return Policy(make_policy(tokenizer), tokenizer, letter_tokens(tokenizer, "here"))


def test_answers_are_the_probabilities_of_the_letters(policy):
    """Whatever the padding: against one prompt at a time, without any."""
    found = Answering.of(policy, [TEA, LONG, TEA], batch=2)
    for index, prompt, letters in (
        (0, "Question: Tea?\nYes: A\nNo: B\nAnswer:", [" A", " B"]),
        (
            1,
            "Question: Which drink do you like best of all?\nTea: A\nCoffee: B\nWater: C\n"
            "None: D\nAnswer:",
            [" A", " B", " C", " D"],
        ),
    ):
        ids = torch.tensor([policy.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            p = policy.model(ids).logits[0, -1].double().softmax(0)
        chosen = torch.cat([p[policy.tokenizer(letter)["input_ids"]] for letter in letters])
        np.testing.assert_allclose(found.shares[index], (chosen / chosen.sum()).numpy(), rtol=1e-4)
        assert found.outside[index] == pytest.approx(1 - float(chosen.sum()), rel=1e-4)
    np.testing.assert_allclose(found.shares[0], found.shares[2], rtol=1e-5)


def test_the_best_of_n_is_that_of_many_draws():
    p, outside = np.array([0.5, 0.3, 0.2]), 0.1
    base = answering(p, outside=outside)
    rewards, floor, n = np.array([-3.0, -1.0, -1.0]), -3.0, 3
    found = best_of_n(base, [rewards], floor, n)
    random = np.random.default_rng(0)
    draws = random.choice(4, (200_000, n), p=[*(p * (1 - outside)), outside])
    values = np.append(rewards, floor)[draws]
    best = draws[np.arange(len(draws)), values.argmax(1)]  # the first of equally good ones
    frequencies = np.bincount(best, minlength=4) / len(best)
    np.testing.assert_allclose(
        np.append(found.shares[0] * (1 - found.outside[0]), found.outside[0]),
        frequencies,
        atol=0.005,
    )


def test_the_best_of_one_is_the_base():
    base = answering([0.5, 0.3, 0.2], outside=0.1)
    found = best_of_n(base, [np.array([-1.0, -2.0, -3.0])], -10, 1)
    np.testing.assert_allclose(found.shares[0], base.shares[0])
    assert found.outside[0] == pytest.approx(0.1)


def test_with_log_shares_and_a_uniform_reference_the_optimum_is_the_group():
    p = np.array([0.7, 0.2, 0.1])
    base = answering([1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(optimum(base, [np.log(p)], beta=1.0).shares[0], p)
    squared = p**2 / (p**2).sum()
    np.testing.assert_allclose(optimum(base, [np.log(p)], beta=0.5).shares[0], squared)
    tilted = np.array([0.5, 0.25, 0.25]) * p
    found = optimum(answering([0.5, 0.25, 0.25]), [np.log(p)], beta=1.0)
    np.testing.assert_allclose(found.shares[0], tilted / tilted.sum())


def test_scores_are_means_over_the_questions_a_group_was_asked():
    shares = answering([0.5, 0.5], [0.9, 0.1]).shares
    truth = {
        "A": [np.array([0.5, 0.5]), np.array([0.1, 0.9])],
        "B": [None, np.array([0.9, 0.1])],
    }
    found = alignment(shares, truth)
    a = (1 + score([0.9, 0.1], [0.1, 0.9])) / 2
    assert found["groups"] == pytest.approx({"A": a, "B": 1.0})
    assert (found["mean"], found["worst"]) == pytest.approx(((a + 1) / 2, a))
    assert found["worst_group"] == "A"
    assert found["cov"] == pytest.approx((1 - a) / 2 / ((1 + a) / 2))
    own = alignment({"A": shares, "B": [shares[1], shares[1]]}, truth)
    assert own["groups"] == found["groups"]


def test_win_rates_are_of_independent_answers():
    policy, base = answering([0.8, 0.2], [0.5, 0.5]), answering([0.4, 0.6], [0.5, 0.5])
    rewards = [np.array([1.0, 0.0]), None]
    # Wins: better answer against worse; half of the equal ones.
    expected = 0.8 * 0.6 + (0.8 * 0.4 + 0.2 * 0.6) / 2
    assert win_rate(policy, base, rewards) == pytest.approx(expected)
    assert win_rate(base, base, rewards) == pytest.approx(0.5)
    assert win_rate(policy, base, [None, None]) is None


def test_divergences_are_from_the_base():
    p, q = np.array([0.8, 0.2]), np.array([0.5, 0.5])
    kl = float((p * np.log(p / q)).sum())
    found = divergences(answering(p, outside=0.1), answering(q, outside=0.3))
    assert found["kl_answers"] == pytest.approx(kl)
    # The chain rule: first whether an option is chosen, then which one.
    outer = 0.1 * np.log(0.1 / 0.3) + 0.9 * np.log(0.9 / 0.7)
    assert found["kl_tokens"] == pytest.approx(outer + 0.9 * kl)
    assert divergences(answering([1.0, 0.0]), answering(q))["kl_answers"] == pytest.approx(
        np.log(2)
    )


def test_divergence_of_tokens_is_over_the_whole_vocabulary(policy):
    base = Answering.of(policy, [TEA], 1)
    logits = torch.randn(1, base.log_probs_QV.shape[1], generator=torch.Generator().manual_seed(0))
    other = Answering(base.shares, base.outside, logits.log_softmax(-1))
    p = logits.double().softmax(-1)
    expected = (p * (p.log() - base.log_probs_QV.double())).sum()
    assert divergences(other, base)["kl_tokens"] == pytest.approx(float(expected), rel=1e-5)
    assert divergences(base, base) == pytest.approx({"kl_answers": 0, "kl_tokens": 0}, abs=1e-6)


def test_similarity_is_the_mean_alignment_score():
    one, other = answering([0.5, 0.5], [0.9, 0.1]), answering([0.5, 0.5], [0.1, 0.9])
    assert similarity(one.shares, other.shares) == pytest.approx(
        (1 + score([0.9, 0.1], [0.1, 0.9])) / 2
    )
