"""Correlated noise against the matrices that it never builds."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from task.correlated_noise import CorrelatedNoise, band_coefficients


def strategy_matrix(num_rounds: int, num_bands: int) -> np.ndarray:
    """C, entry by entry."""
    coefficients = band_coefficients(num_bands)
    matrix = np.zeros((num_rounds, num_rounds))
    for row in range(num_rounds):
        for column in range(row + 1):
            if row - column < num_bands:
                matrix[row, column] = coefficients[row - column]
    return matrix


def participations(num_rounds: int, separation: int) -> list[tuple[int, ...]]:
    """All sets of rounds of which no two are nearer than the separation."""
    return [
        rounds
        for number in range(1, num_rounds + 1)
        for rounds in combinations(range(num_rounds), number)
        if all(later - earlier >= separation for earlier, later in pairwise(rounds))
    ]


def test_coefficients_are_those_of_the_square_root_of_prefix_sums() -> None:
    expected = np.array([1, 1 / 2, 3 / 8, 5 / 16])
    np.testing.assert_allclose(band_coefficients(4), expected / np.linalg.norm(expected))
    assert band_coefficients(1).tolist() == [1]
    square_root = np.zeros((4, 4))
    for row in range(4):
        square_root[row, : row + 1] = expected[: row + 1][::-1]
    np.testing.assert_allclose(square_root @ square_root, np.tril(np.ones((4, 4))))


@pytest.mark.parametrize("num_bands", [1, 2, 3, 4])
def test_no_participation_with_the_separation_exceeds_the_sensitivity_accounted_for(
    num_bands: int,
) -> None:
    # A trap of banded noise: its cost is that of one Gaussian only if turns are far enough apart.
    num_rounds = 9
    matrix = strategy_matrix(num_rounds, num_bands)
    patterns = participations(num_rounds, num_bands)
    assert len(patterns) > 20
    for rounds in patterns:
        columns = matrix[:, rounds]
        # Updates of norm 1 may point anywhere: the same way and opposite ways are the extremes.
        for signs in np.ndindex(*(2,) * len(rounds)):
            norm = np.linalg.norm(columns @ (1 - 2 * np.array(signs)))
            assert norm <= np.sqrt(len(rounds)) + 1e-12
    if num_bands > 1:
        nearer = (0, num_bands - 1)
        assert np.linalg.norm(matrix[:, nearer].sum(1)) > np.sqrt(2) + 1e-3


@pytest.mark.parametrize("num_bands", [1, 2, 3, 5, 8])
def test_noise_is_the_solution_of_the_strategy_matrix(num_bands: int) -> None:
    independent = np.random.default_rng(0).standard_normal((7, 11))
    before = independent.copy()
    noise = CorrelatedNoise(num_bands)
    rows = np.array([noise.next(row) for row in independent])
    np.testing.assert_allclose(rows, np.linalg.solve(strategy_matrix(7, num_bands), independent))
    np.testing.assert_array_equal(independent, before)


def test_one_band_leaves_noise_as_it_is() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 4))
    noise = CorrelatedNoise(1)
    for row in rows:
        np.testing.assert_array_equal(noise.next(row), row)


def test_the_noise_of_the_sum_of_rounds_is_smaller_with_more_bands() -> None:
    def deviation(num_bands: int) -> float:
        sums = np.tril(np.ones((16, 16))) @ np.linalg.inv(strategy_matrix(16, num_bands))
        return float(np.sqrt((sums**2).sum(1).mean()))

    deviations = [deviation(bands) for bands in (1, 2, 4, 8)]
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[-1] < 0.75 * deviations[0]
