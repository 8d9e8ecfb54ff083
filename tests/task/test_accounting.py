"""Epsilons against dp-accounting called directly, published ones and closed forms."""

import math
from typing import Any

import dp_accounting as dp
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.special import log_ndtr

from task.accounting import ClientReleases, Guarantee
from task.errors import ConfigError
from tests.server_app.in_process_grid import tiny_config

DELTA = 1e-5
EVERY_WAY = [("poisson", 10), ("poisson", 0), ("without-replacement", 10), ("cyclic", 10)]


def releases(
    sampling: str = "poisson", cohort: int = 100, clients: int = 1000, **changes: Any
) -> ClientReleases:
    return ClientReleases(clients, cohort, sampling, **{"noise_multiplier": 1.0} | changes)


def gaussian_epsilon(multiplier: float) -> float:
    """Of one Gaussian mechanism, exact (arXiv 1805.06530, theorem 8), by bisection."""

    def log_delta(epsilon: float) -> float:
        inner = 1 / (2 * multiplier)
        high = float(log_ndtr(inner - epsilon * multiplier))
        low = epsilon + float(log_ndtr(-inner - epsilon * multiplier))
        return high + math.log1p(-math.exp(low - high)) if low < high else -math.inf

    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if log_delta(middle) <= math.log(DELTA) else (middle, high)
    return high


def test_published_epsilons() -> None:
    # 50 releases of z = 1 with a tenth of the clients. Flower's wrappers account for nothing.
    assert releases().epsilon(50, DELTA, "rdp") == pytest.approx(5.89, abs=0.01)
    assert releases(cohort=0).epsilon(50, DELTA, "rdp") == pytest.approx(57.30, abs=0.01)


def test_a_replaced_client_changes_the_sum_by_twice_the_norm() -> None:
    # The trap: 9.43 is for noise of one sensitivity, which here is twice the clipping norm.
    half = releases("without-replacement", noise_multiplier=2.0)
    assert half.epsilon(50, DELTA) == pytest.approx(9.43, abs=0.01)
    assert releases("without-replacement").epsilon(50, DELTA) > 2 * 9.43


@pytest.mark.parametrize(("name", "accountant"), [("rdp", RdpAccountant), ("pld", PLDAccountant)])
@pytest.mark.parametrize("cohort", [0, 100, 1000])
def test_epsilons_are_those_of_dp_accounting(name: str, accountant: Any, cohort: int) -> None:
    of_round: dp.DpEvent = dp.GaussianDpEvent(1.3)
    if 0 < cohort < 1000:
        of_round = dp.PoissonSampledDpEvent(0.1, of_round)
    event = dp.SelfComposedDpEvent(of_round, 7)
    direct = (
        accountant(neighboring_relation=dp.NeighboringRelation.REPLACE_SPECIAL)
        .compose(event)
        .get_epsilon(DELTA)
    )
    ours = releases(cohort=cohort, noise_multiplier=1.3).epsilon(7, DELTA, name)
    assert ours == pytest.approx(direct, abs=2e-3)  # PLDs: another step of discretisation


def test_without_replacement_is_rdp_of_replacement_whatever_is_wanted() -> None:
    event = dp.SelfComposedDpEvent(
        dp.SampledWithoutReplacementDpEvent(1000, 100, dp.GaussianDpEvent(0.65)), 7
    )
    direct = (
        RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
        .compose(event)
        .get_epsilon(DELTA)
    )
    plan = releases("without-replacement", noise_multiplier=1.3)
    for wanted in ("pld", "rdp"):
        assert plan.epsilon(7, DELTA, wanted) == direct
        assert plan.accountant_name(wanted) == "rdp"


@pytest.mark.parametrize(("rounds", "turns"), [(1, 1), (10, 1), (11, 2), (20, 2), (95, 10)])
@pytest.mark.parametrize("bands", [1, 4, 10])
def test_clients_in_turn_cost_one_gaussian_of_their_turns(
    rounds: int, turns: int, bands: int
) -> None:
    plan = releases("cyclic", noise_multiplier=3.0, num_bands=bands)
    exact = gaussian_epsilon(3 / math.sqrt(turns))
    assert exact <= plan.epsilon(rounds, DELTA) <= exact + 2e-3


@pytest.mark.parametrize(("rounds", "repeated", "turns"), [(11, 1, 2), (12, 2, 3), (15, 4, 6)])
def test_a_round_done_again_is_a_turn_more(rounds: int, repeated: int, turns: int) -> None:
    in_turn = releases("cyclic", noise_multiplier=3.0)
    exact = gaussian_epsilon(3 / math.sqrt(turns))
    assert exact <= in_turn.epsilon(rounds, DELTA, "pld", 0, repeated) <= exact + 2e-3
    # Where all take part in each round anyway, it is one round more.
    everybody = releases(cohort=0)
    assert everybody.epsilon(5, DELTA, "rdp", 0, 2) == everybody.epsilon(5, DELTA, "rdp")


def test_the_last_cohort_in_turn_may_be_smaller() -> None:
    plan = releases("cyclic", cohort=300, noise_multiplier=3.0)
    assert plan.rounds_per_pass == 4
    assert plan.epsilon(5, DELTA) == pytest.approx(gaussian_epsilon(3 / math.sqrt(2)), abs=2e-3)


@pytest.mark.parametrize(("sampling", "cohort"), EVERY_WAY)
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_no_noise_is_an_infinite_epsilon_and_no_release_none(
    sampling: str, cohort: int, accountant: str
) -> None:
    plan = releases(sampling, cohort, 40, noise_multiplier=0.0, metrics_noise_multiplier=5.0)
    assert plan.epsilon(1, DELTA, accountant) == math.inf
    assert plan.epsilon(1, DELTA, accountant, 1) == math.inf
    assert plan.epsilon(0, DELTA, accountant) == 0
    assert 0 < plan.epsilon(0, DELTA, accountant, 1) < math.inf


@pytest.mark.parametrize(("sampling", "cohort"), EVERY_WAY)
def test_more_rounds_less_noise_and_scores_cost_more(sampling: str, cohort: int) -> None:
    plan = releases(sampling, cohort, 40, metrics_noise_multiplier=5.0)
    more_noise = releases(sampling, cohort, 40, noise_multiplier=1.5)
    costs = [plan.epsilon(rounds, DELTA, "rdp") for rounds in (1, 4, 8, 9)]
    assert costs == sorted(costs)
    assert costs[-1] > 1.2 * costs[0]
    assert more_noise.epsilon(8, DELTA, "rdp") < costs[2]
    assert plan.epsilon(8, DELTA, "rdp", 3) > costs[2]


def test_noisy_scores_are_composed_with_updates() -> None:
    plan = releases(metrics_noise_multiplier=4.0)
    event = dp.ComposedDpEvent(
        [
            dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(1.0)), 5),
            dp.SelfComposedDpEvent(dp.GaussianDpEvent(4.0), 3),
        ]
    )
    direct = PLDAccountant(dp.NeighboringRelation.REPLACE_SPECIAL).compose(event)
    expected = direct.get_epsilon(DELTA)
    assert plan.epsilon(5, DELTA, "pld", 3) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("cohort", [0, 10, 11])
def test_a_cohort_of_all_is_no_sampling(cohort: int) -> None:
    for sampling in ("poisson", "without-replacement", "cyclic"):
        plan = releases(sampling, cohort, 10)
        assert plan.takes_all
        assert not plan.replaces
        assert plan.nominal_cohort == 10
        assert "all clients" in plan.describe_sampling()
        assert plan.epsilon(3, DELTA) == pytest.approx(gaussian_epsilon(1 / math.sqrt(3)), abs=3e-3)


def test_what_is_assumed_is_said() -> None:
    assert "zero-out" in releases("poisson").relation
    assert "zero-out" in releases("cyclic").relation
    assert "replace-one" in releases("without-replacement").relation
    assert releases("poisson").describe_sampling() == (
        "Poisson, 100 of 1000 clients a round on average, kept secret"
    )
    assert "kept secret" in releases("without-replacement").describe_sampling()
    text = releases("cyclic", num_bands=3).describe_sampling()
    assert "in turn" in text
    assert "correlated over 3 rounds" in text
    assert "secret" not in text


def banded(bands: int, **changes: Any) -> ClientReleases:
    config = tiny_config(
        privacy__unit="client",
        privacy__noise_multiplier=1.0,
        privacy__num_bands=bands,
        strategy__clipping_norm=1.0,
        train__sampling="cyclic",
        train__clients_per_round=3,
        **changes,
    )
    return ClientReleases.of(config, 10)


def test_noise_may_be_correlated_over_a_pass_and_no_longer() -> None:
    assert banded(4).rounds_per_pass == 4
    with pytest.raises(ConfigError, match=r"privacy.num-bands = 5: expected at most 4"):
        banded(5)


def test_a_server_that_sees_sums_alone_draws_no_secret_cohorts() -> None:
    changes = {"privacy.unit": "client", "strategy.clipping-norm": 1.0}
    keys = {key.replace(".", "__").replace("-", "_"): value for key, value in changes.items()}
    config = tiny_config(
        **keys,
        privacy__secure_aggregation=True,
        train__sampling="poisson",
        train__clients_per_round=3,
    )
    with pytest.raises(ConfigError, match=r"train.sampling = 'poisson'"):
        ClientReleases.of(config, 10)


def test_a_guarantee_says_all_that_it_needs_to_mean_something() -> None:
    guarantee = Guarantee("client", math.inf, 1e-6, "R", "S", "A", ("x", "y"))
    text = str(guarantee)
    for part in (
        "inf",
        "1e-06",
        "one client",
        "relation: R",
        "sampling: S",
        "accountant: A",
        "x; y",
    ):
        assert part in text
    assert guarantee.to_json() == {
        "unit": "client",
        "epsilon": None,
        "delta": 1e-6,
        "relation": "R",
        "sampling": "S",
        "accountant": "A",
        "excludes": ["x", "y"],
    }
