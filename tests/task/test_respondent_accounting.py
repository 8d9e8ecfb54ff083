import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp
from scipy.optimize import brentq
from scipy.stats import binom, norm

from task.errors import ConfigError
from task.privacy_config import PrivacyConfig
from task.respondent_accounting import member_epsilon, noise_scale, release_event


def member(z=1.0, **settings):
    return PrivacyConfig(unit="member", noise_multiplier=z, **settings)


def laplace(z=1.0, **settings):
    return member(z, histogram_noise="discrete-laplace", **settings)


def epsilon_of(event, delta=1e-5):
    accountant = pld.PLDAccountant()
    accountant.compose(event)
    return accountant.get_epsilon(delta)


def analytic_gaussian_epsilon(sigma, delta):
    """Balle & Wang 2018 (arXiv 1805.06530), theorem 8, for sensitivity 1."""

    def excess(epsilon):
        upper = norm.cdf(1 / (2 * sigma) - epsilon * sigma)
        return upper - math.exp(epsilon) * norm.cdf(-1 / (2 * sigma) - epsilon * sigma) - delta

    return brentq(excess, 0, 200)


def randomised_response_epsilon(loss, times, delta):
    """Epsilon of `times` independent privacy losses of +-`loss`, from the binomial distribution."""
    yes = np.arange(times + 1)
    chance = binom.pmf(yes, times, math.exp(loss) / (1 + math.exp(loss)))
    total = (2 * yes - times) * loss

    def excess(epsilon):
        return float((chance * np.maximum(0, 1 - np.exp(epsilon - total))).sum()) - delta

    return brentq(excess, 0, times * loss) if excess(times * loss - 1e-9) < 0 else times * loss


@pytest.mark.parametrize("z", [0.4, 1.0, 5.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_gaussian_epsilon_is_that_of_one_gaussian_mechanism(z, delta):
    found = member_epsilon(member(z, delta=delta), [20, 300])
    assert found == epsilon_of(dp_accounting.GaussianDpEvent(z), delta)
    assert found == pytest.approx(analytic_gaussian_epsilon(z, delta), rel=1e-3)


def test_gaussian_epsilon_does_not_depend_on_the_number_of_questions():
    expected = member_epsilon(member(), [1])
    assert member_epsilon(member(), [250]) == expected
    assert member_epsilon(member(questions_per_respondent=7), [250]) == expected


def test_the_rdp_accountant_gives_renyi_epsilon():
    accountant = rdp.RdpAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(2.0))
    found = member_epsilon(member(2.0, accountant="rdp"), [30])
    assert found == accountant.get_epsilon(1e-5)
    assert found > member_epsilon(member(2.0), [30])


@pytest.mark.parametrize(("z", "questions"), [(0.2, 1), (0.2, 40), (1.0, 200)])
def test_discrete_laplace_epsilon_equals_the_exact_one(z, questions):
    found = member_epsilon(laplace(z), [questions])
    event = dp_accounting.dp_event.DiscreteLaplaceDpEvent(1 / (z * questions), 1)
    assert found == epsilon_of(dp_accounting.SelfComposedDpEvent(event, questions))
    assert found <= 1 / z + 1e-9
    exact = randomised_response_epsilon(1 / (z * questions), questions, 1e-5)
    assert found == pytest.approx(exact, rel=0.01)


def test_discrete_laplace_epsilon_is_never_too_small():
    assert member_epsilon(laplace(20.0), [260]) > randomised_response_epsilon(1 / 5200, 260, 1e-5)


def test_discrete_laplace_epsilon_is_the_largest_of_all_groups():
    each = [member_epsilon(laplace(), [number]) for number in (3, 40, 200)]
    assert each == sorted(each, reverse=True)
    assert each[0] > each[2]
    assert member_epsilon(laplace(), [200, 3, 40]) == each[0]


def test_respondents_who_answered_fewer_questions_are_composed_over_those_only():
    capped = laplace(questions_per_respondent=5)
    assert release_event(capped, 200) == release_event(laplace(), 5)
    assert release_event(capped, 3) == release_event(laplace(), 3)


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
@pytest.mark.parametrize(("z", "questions"), [(0.3, 4), (1.0, 50)])
def test_two_counts_of_twice_the_scale_cost_no_more_than_the_event(z, questions, delta):
    """Of a declared number of respondents two counts change; the event stands for both."""
    half = dp_accounting.dp_event.DiscreteLaplaceDpEvent(1 / (2 * z * questions), 1)
    both = dp_accounting.SelfComposedDpEvent(half, 2 * questions)
    event = release_event(laplace(z), questions)
    assert epsilon_of(both, delta) <= epsilon_of(event, delta) * 1.001


@pytest.mark.parametrize("privacy", [member(0.0), laplace(0.0)], ids=["gaussian", "laplace"])
def test_without_noise_epsilon_is_infinite(privacy):
    assert member_epsilon(privacy, [10]) == math.inf
    assert isinstance(release_event(privacy, 10), dp_accounting.NonPrivateDpEvent)


def test_noise_is_the_multiplier_times_the_sensitivity():
    assert noise_scale(member(2.0), 25, declared=False) == 10
    assert noise_scale(member(2.0), 50, declared=True) == pytest.approx(20)
    assert noise_scale(member(2.0, questions_per_respondent=9), 25, declared=False) == 6
    assert noise_scale(member(2.0, questions_per_respondent=99), 25, declared=False) == 10
    assert noise_scale(laplace(2.0), 25, declared=False) == 50
    assert noise_scale(laplace(2.0), 25, declared=True) == 100


def test_discrete_laplace_noise_needs_the_pld_accountant():
    privacy = laplace(accountant="rdp")
    for call in (lambda: member_epsilon(privacy, [10]), lambda: release_event(privacy, 10)):
        with pytest.raises(ConfigError, match=r"privacy\.accountant = 'rdp': expected 'pld'"):
            call()
