import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm

from task.audit import (
    area_under_curve,
    count_correct,
    epsilon_lower_bound,
    epsilon_of_rates,
    loss_threshold_attack,
    one_run_p_value,
)


def randomised_response(epsilon, number, seed):
    """How many of so many coins are told rightly by the best guess that epsilon allows."""
    return np.random.default_rng(seed).binomial(number, 1 / (1 + math.exp(-epsilon)))


def p_value_in_a_loop(epsilon, r, v, delta, m):
    """Steinke et al. 2023 (arXiv 2305.08846), theorem 5.2, one term after another."""
    accuracy = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = [math.comb(r, k) * accuracy**k * (1 - accuracy) ** (r - k) for k in range(r + 1)]
    slopes = [sum(chance[v - i : v]) / i for i in range(1, v + 1)]
    return min(1, sum(chance[v:]) + 2 * m * delta * max(slopes, default=0))


def test_the_papers_own_example_comes_out():
    # Appendix D prints that 75 of 100 guesses about 1000 canaries show 0.673 at delta 1e-4.
    assert epsilon_lower_bound(100, 75, 1e-4, num_canaries=1000) == pytest.approx(0.673, abs=5e-4)


@pytest.mark.parametrize("delta", [0, 1e-5, 1e-2])
@pytest.mark.parametrize("epsilon", [0, 0.7, 3])
def test_p_value_is_that_of_the_theorem(epsilon, delta):
    for r, v in ((1, 0), (1, 1), (20, 14), (40, 40)):
        expected = p_value_in_a_loop(epsilon, r, v, delta, 60)
        assert one_run_p_value(epsilon, r, v, delta, 60) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("guesses", "correct"), [(64, 64), (64, 50), (1000, 600)])
def test_without_delta_it_is_the_binomial_bound(guesses, correct, confidence):
    accuracy = brentq(
        lambda q: binom.sf(correct - 1, guesses, q) - (1 - confidence), 1e-9, 1 - 1e-12
    )
    found = epsilon_lower_bound(guesses, correct, 0, confidence)
    assert found == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-6)


@pytest.mark.parametrize(("guesses", "correct"), [(0, 0), (1, 1), (100, 0), (100, 50), (100, 57)])
def test_no_guess_and_chance_prove_nothing(guesses, correct):
    assert epsilon_lower_bound(guesses, correct, 1e-5, num_canaries=200) == 0


def test_it_grows_with_correct_guesses_and_shrinks_with_everything_else():
    bounds = [epsilon_lower_bound(100, v, 1e-4, num_canaries=100) for v in range(0, 101, 5)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[16] > bounds[12] > 0
    by_delta = [epsilon_lower_bound(100, 80, d, num_canaries=100) for d in (0, 1e-5, 1e-4, 1e-3)]
    assert by_delta == sorted(by_delta, reverse=True)
    assert by_delta[0] > by_delta[-1] + 0.01
    assert epsilon_lower_bound(100, 80, 1e-3, num_canaries=200) < by_delta[-1]
    assert epsilon_lower_bound(100, 80, 0, 0.99) < epsilon_lower_bound(100, 80, 0, 0.9)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_of_randomised_response_it_is_too_high_for_one_in_twenty_at_most(epsilon):
    correct = [int(randomised_response(epsilon, 200, seed)) for seed in range(2000)]
    bound_of = {number: epsilon_lower_bound(200, number, 0) for number in set(correct)}
    bounds = [bound_of[number] for number in correct]
    too_high = np.mean(np.array(bounds) > epsilon)
    # 0.05 and, as the number of right guesses is whole, less; three deviations of 2,000 trials.
    assert 0.02 < too_high < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert np.median(bounds) > 0.4 * epsilon  # nor is it idle


@pytest.mark.parametrize(
    ("numbers", "delta", "confidence"),
    [((10, 11), 0, 0.95), ((10, -1), 0, 0.95), ((10, 5), 1.0, 0.95), ((10, 5), 0, 1.0)],
)
def test_impossible_numbers_are_refused(numbers, delta, confidence):
    with pytest.raises(ValueError, match="expected"):
        epsilon_lower_bound(*numbers, delta, confidence)


def test_more_guesses_than_canaries_are_refused():
    with pytest.raises(ValueError, match="of 10 guesses about 9 canaries"):
        epsilon_lower_bound(10, 5, 0, num_canaries=9)


def test_guesses_are_of_the_extremes():
    scores = [5, 4, 3, 2, 1, 0]
    included = [True, False, False, False, True, False]
    assert [count_correct(scores, included, k) for k in range(7)] == [0, 1, 2, 2, 2, 2, 3]
    with pytest.raises(ValueError, match="7 guesses about 6 scores"):
        count_correct(scores, included, 7)
    with pytest.raises(ValueError, match="a number"):
        count_correct([math.nan, 1], [True, False], 1)


def test_area_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    members, others = random.integers(0, 6, 30), random.integers(0, 5, 20)
    pairs = np.subtract.outer(members, others)
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert area_under_curve(members, others) == pytest.approx(expected)


def test_rates_are_taken_at_their_worst():
    def worst(found, members, wrong, others, delta):
        """Clopper and Pearson's ends by definition: rates that just make the counts unlikely."""
        low = brentq(lambda p: binom.sf(found - 1, members, p) - 0.025, 1e-12, 1 - 1e-12)
        high = brentq(lambda p: binom.cdf(wrong, others, p) - 0.025, 1e-12, 1 - 1e-12)
        return max(
            math.log(max(low - delta, 1e-300) / high), math.log((1 - high - delta) / (1 - low)), 0
        )

    for counts in ((90, 100, 3, 100), (50, 100, 0, 200), (100, 100, 60, 100), (5, 100, 6, 100)):
        found = float(epsilon_of_rates(*counts, 1e-3))
        assert found == pytest.approx(worst(*counts, 1e-3), abs=1e-6)
    several = epsilon_of_rates([0, 90, 100], 100, [0, 3, 100], 100, 0)
    assert several[1] > 2
    assert several[0] == several[2] == 0  # all or nothing taken for members


@pytest.fixture(scope="module")
def gaussian():
    random = np.random.default_rng(1)
    return random.normal(1.5, 1, 20000), random.normal(0, 1, 20000)


def test_threshold_attack_finds_what_a_gaussian_lets_it(gaussian):
    attack = loss_threshold_attack(*gaussian)
    assert attack.area == pytest.approx(norm.cdf(1.5 / math.sqrt(2)), abs=0.005)
    assert attack.balanced_accuracy == pytest.approx(norm.cdf(0.75), abs=0.01)
    for rate, found in attack.true_positive_rates.items():
        assert found == pytest.approx(norm.sf(norm.isf(rate) - 1.5), abs=0.03)
        ratio = math.log(norm.sf(norm.isf(rate) - 1.5) / rate)
        assert ratio - 0.9 < attack.bounds[rate] < ratio + 0.1
    assert attack.epsilon > max(attack.bounds.values()) - 0.5 > 2


def test_bounds_stay_below_epsilon_for_19_of_20():
    # Randomised response with a known epsilon: two thresholds, so the choice costs nothing.
    epsilon, trials = 1.0, 200
    random = np.random.default_rng(2)
    accuracy = 1 / (1 + math.exp(-epsilon))
    too_high = 0
    for _ in range(trials):
        members = random.random(400) < accuracy
        others = random.random(400) < 1 - accuracy
        too_high += loss_threshold_attack(members, others).epsilon > epsilon
    assert too_high / trials <= 0.05


def test_luck_of_the_half_that_chooses_is_not_believed():
    random = np.random.default_rng(3)
    scores = random.normal(size=(100, 2, 40))  # nothing to be found
    bounds = np.array([loss_threshold_attack(*pair).epsilon for pair in scores])
    assert (bounds > 0).mean() <= 0.05
    # A member whom only the half that chooses can see.
    members, others = np.zeros(100), np.zeros(100)
    members[::2] = 1
    attack = loss_threshold_attack(members, others)
    assert attack.epsilon == 0
    assert attack.balanced_accuracy == 0.5


def test_threshold_attack_needs_two_of_each():
    with pytest.raises(ValueError, match="two of each"):
        loss_threshold_attack([1.0], [0.0, 1.0])
