"""Cohorts as the accounting assumes them."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from server_app.sampling import CohortSampler
from task.accounting import ClientReleases
from task.correlated_noise import band_coefficients
from task.seeding import generator
from tests.server_app.in_process_grid import tiny_config

IDS = [3, 5, 8, 13, 21, 34, 55, 89, 144, 233]


def sampler(sampling: str, size: int, **changes: Any) -> CohortSampler:
    config = tiny_config(train__sampling=sampling, train__clients_per_round=size, **changes)
    return CohortSampler(config, IDS[::-1])


def cohorts(drawing: CohortSampler, number: int) -> list[list[int]]:
    return [drawing.cohort(server_round) for server_round in range(1, number + 1)]


@pytest.mark.parametrize("secure", [True, False])
def test_poisson_draws_each_client_by_itself_with_the_rate(secure: bool) -> None:
    # Flower draws a fixed number, for which Poisson's amplification does not hold.
    number, rate = 4000, 0.3
    drawn = cohorts(sampler("poisson", 3, privacy__secure_noise=secure), number)
    present = np.array([[i in cohort for i in IDS] for cohort in drawn])
    deviation = math.sqrt(number * rate * (1 - rate))
    assert np.abs(present.sum(0) - number * rate).max() < 5 * deviation
    sizes = present.sum(1)
    assert sizes.min() == 0
    assert sizes.var() == pytest.approx(10 * rate * (1 - rate), rel=0.15)  # fixed number: 0
    correlations = np.corrcoef(present.T.astype(float)) - np.eye(10)
    assert np.abs(correlations).max() < 5 / math.sqrt(number)
    following = np.corrcoef(present[:-1].ravel(), present[1:].ravel())[0, 1]
    assert abs(following) < 5 / math.sqrt(10 * number)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 9])
def test_in_turn_every_client_takes_part_once_a_pass_at_a_constant_distance(size: int) -> None:
    drawn = cohorts(sampler("cyclic", size), 25)
    rounds_per_pass = -(-10 // size)
    for first in range(0, 25 - rounds_per_pass, rounds_per_pass):
        of_pass = drawn[first : first + rounds_per_pass]
        assert sorted(i for cohort in of_pass for i in cohort) == IDS
    for client in IDS:
        rounds = [number for number, cohort in enumerate(drawn) if client in cohort]
        assert {later - earlier for earlier, later in pairwise(rounds)} == {rounds_per_pass}
    assert drawn != cohorts(sampler("cyclic", size, run__seed=1), 25)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("num_rounds", [1, 7, 12, 23])
def test_real_turns_have_the_sensitivity_that_is_paid_for(size: int, num_rounds: int) -> None:
    plan = ClientReleases(10, size, "cyclic", 1.0)
    turns = -(-num_rounds // plan.rounds_per_pass)
    drawn = cohorts(sampler("cyclic", size), num_rounds)
    for bands in range(1, plan.rounds_per_pass + 1):
        first = np.zeros(num_rounds)
        first[: min(bands, num_rounds)] = band_coefficients(bands)[:num_rounds]
        matrix = np.array(
            [[first[r - c] if r >= c else 0 for c in range(num_rounds)] for r in range(num_rounds)]
        )
        for client in IDS:
            takes_part = np.array([float(client in cohort) for cohort in drawn])
            assert np.linalg.norm(matrix @ takes_part) <= math.sqrt(turns) + 1e-12


def expected_without_replacement(ids: Sequence[int], seed: int, server_round: int) -> list[int]:
    """As cohorts were drawn before there were other ways."""
    random = generator(seed, "cohort", server_round)
    return sorted(int(i) for i in random.choice(sorted(ids), 3, replace=False))


def test_drawing_without_replacement_is_what_it_was() -> None:
    drawn = cohorts(sampler("without-replacement", 3, run__seed=7), 20)
    assert drawn == [expected_without_replacement(IDS, 7, r) for r in range(1, 21)]


def test_secure_draws_without_replacement_are_uniform() -> None:
    drawn = cohorts(sampler("without-replacement", 3, privacy__secure_noise=True), 3000)
    assert all(len(set(cohort)) == 3 and cohort == sorted(cohort) for cohort in drawn)
    counts = np.array([sum(i in cohort for cohort in drawn) for i in IDS])
    assert np.abs(counts - 900).max() < 5 * math.sqrt(3000 * 0.3 * 0.7)


@pytest.mark.parametrize("sampling", ["poisson", "without-replacement"])
def test_secure_draws_cannot_be_told_from_the_seed_and_stay_for_their_round(sampling: str) -> None:
    # Amplification needs a secret cohort: whoever knows the seed must not know who took part.
    one, other = (sampler(sampling, 3, privacy__secure_noise=True) for _ in range(2))
    assert cohorts(one, 20) != cohorts(other, 20)
    for server_round in (21, 22):
        drawn = one.cohort(server_round)
        drawn_again = one.cohort(server_round)
        assert drawn == drawn_again
        drawn_again.append(0)  # a caller's own list
        assert one.cohort(server_round) == drawn


@pytest.mark.parametrize("sampling", ["poisson", "without-replacement", "cyclic"])
def test_seeded_draws_are_a_function_of_seed_and_round(sampling: str) -> None:
    drawn = cohorts(sampler(sampling, 3), 20)
    again = sampler(sampling, 3)
    assert [again.cohort(r) for r in range(20, 0, -1)] == drawn[::-1]
    assert drawn != cohorts(sampler(sampling, 3, run__seed=1), 20)


@pytest.mark.parametrize("sampling", ["poisson", "without-replacement", "cyclic"])
@pytest.mark.parametrize("size", [10, 11])
def test_a_cohort_of_all_is_all(sampling: str, size: int) -> None:
    assert cohorts(sampler(sampling, size), 3) == [IDS] * 3
