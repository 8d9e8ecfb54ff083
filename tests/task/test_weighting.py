import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import OptimizeResult

from task import weighting
from task.weighting import min_norm_weights, project_to_simplex, tilted

numbers = st.floats(-10, 10)
lists = st.lists(numbers, min_size=1, max_size=7).map(np.array)


def closest_on_the_simplex(values: np.ndarray) -> np.ndarray:
    """Try every set of entries that may be above 0; there the closest point is a shift."""
    best, least = None, np.inf
    for size in range(1, len(values) + 1):
        for chosen in itertools.combinations(range(len(values)), size):
            point = np.zeros(len(values))
            inside = values[list(chosen)]
            point[list(chosen)] = inside - (inside.sum() - 1) / size
            distance = np.square(point - values).sum()
            if point.min() >= 0 and distance < least:
                best, least = point, distance
    return best


@given(lists)
def test_the_projection_is_the_closest_point_of_the_simplex(values: np.ndarray) -> None:
    projected = project_to_simplex(values)
    np.testing.assert_allclose(projected, closest_on_the_simplex(values), atol=1e-12)
    assert projected.min() >= 0
    assert projected.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([1, 1], [0.5, 0.5]),
        ([0.8, 0.6], [0.6, 0.4]),
        ([2, 0.5, 0], [1, 0, 0]),
        ([-3], [1]),
        ([0.5, 0.5, -1], [0.5, 0.5, 0]),
    ],
)
def test_projections_worked_out_by_hand(values: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(project_to_simplex(np.array(values)), expected, atol=1e-15)


def test_tilted_weights_worked_out_by_hand() -> None:
    np.testing.assert_allclose(tilted(np.log([1.0, 3.0, 4.0])), [1 / 8, 3 / 8, 4 / 8])
    np.testing.assert_allclose(tilted(np.log([0.5, 0.5])), [0.5, 0.5])
    assert tilted(np.array([-7.0])).tolist() == [1]


def test_large_exponents_do_not_overflow() -> None:
    np.testing.assert_allclose(tilted(np.array([1e6, 1e6, -1e6])), [0.5, 0.5, 0])
    np.testing.assert_allclose(tilted(np.array([-1e6, -1e6])), [0.5, 0.5])


def grid(parts: int, steps: int) -> np.ndarray:
    """All weights that are multiples of 1 / steps."""
    counts = [c for c in itertools.product(range(steps + 1), repeat=parts - 1) if sum(c) <= steps]
    return np.array([[*c, steps - sum(c)] for c in counts]) / steps


GRIDS = {2: grid(2, 1000), 3: grid(3, 100)}
TWO_OR_THREE = [(size, seed) for size in (2, 3) for seed in range(8)]


def random_vectors(size: int, seed: int) -> np.ndarray:
    """Vectors that lean the same way, more or less, of unequal length."""
    random = np.random.default_rng(seed)
    lengths = random.uniform(0.2, 3, size=(size, 1))
    return lengths * (random.normal(size=(size, 4)) + random.uniform(0, 1.5))


def norm(weights: np.ndarray, vectors: np.ndarray) -> float:
    return float(np.linalg.norm(weights @ vectors))


@pytest.mark.parametrize("epsilon", [0.05, 0.25, 1.0])
@pytest.mark.parametrize(("size", "seed"), TWO_OR_THREE)
def test_the_sum_is_the_shortest_that_a_search_finds(size: int, seed: int, epsilon: float) -> None:
    vectors = random_vectors(size, seed)
    prior = np.full(size, 1 / size)
    weights = min_norm_weights(vectors, prior, epsilon)
    allowed = GRIDS[size][(np.abs(GRIDS[size] - prior) <= epsilon).all(1)]
    found = min(norm(each, vectors) for each in allowed)
    step = np.linalg.norm(vectors, axis=1).sum() / (1000 if size == 2 else 100)
    assert found - step <= norm(weights, vectors) <= found + 1e-6
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    assert np.abs(weights - prior).max() <= epsilon + 1e-9


def test_weights_of_least_norm_worked_out_by_hand() -> None:
    """Of (1, 0) and (0, 2) the shortest mix is (0.8, 0.4); 0.6 is as near as 0.1 allows."""
    vectors = np.array([[1.0, 0.0], [0.0, 2.0]])
    half = np.array([0.5, 0.5])
    np.testing.assert_allclose(min_norm_weights(vectors, half, 1.0), [0.8, 0.2], atol=1e-6)
    np.testing.assert_allclose(min_norm_weights(vectors, half, 0.1), [0.6, 0.4], atol=1e-6)
    assert min_norm_weights(vectors, half, 0.0).tolist() == [0.5, 0.5]


def test_a_prior_that_is_not_equal_is_where_the_weights_stay_near() -> None:
    prior = np.array([0.1, 0.9])
    weights = min_norm_weights(np.array([[1.0, 0.0], [0.0, 2.0]]), prior, 0.05)
    np.testing.assert_allclose(weights, [0.15, 0.85], atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_the_order_of_the_vectors_does_not_matter(epsilon: float) -> None:
    vectors = random_vectors(5, seed=3)
    order = np.array([3, 0, 4, 2, 1])
    weights = min_norm_weights(vectors, np.full(5, 0.2), epsilon)
    again = min_norm_weights(vectors[order], np.full(5, 0.2), epsilon)
    np.testing.assert_allclose(again, weights[order], atol=1e-5)


@pytest.mark.parametrize("number", [3, 10, 60])
def test_with_any_weights_the_direction_makes_an_acute_angle_with_every_vector(
    number: int,
) -> None:
    random = np.random.default_rng(number)
    vectors = random.normal(size=(number, 2 * number)) + 0.5
    direction = min_norm_weights(vectors, np.full(number, 1 / number), 1.0) @ vectors
    # at the minimum <v, direction> >= |direction|^2 for every v
    assert (vectors @ direction).min() >= direction @ direction * (1 - 1e-3) > 0


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_the_lengths_of_all_vectors_together_do_not_matter(scale: float) -> None:
    vectors = random_vectors(4, seed=1)
    prior = np.full(4, 0.25)
    np.testing.assert_allclose(
        min_norm_weights(scale * vectors, prior, 1.0),
        min_norm_weights(vectors, prior, 1.0),
        atol=1e-5,
    )


def test_vectors_of_0_and_a_single_one_have_weights_too() -> None:
    prior = np.full(3, 1 / 3)
    weights = min_norm_weights(np.zeros((3, 4)), prior, 0.5)
    np.testing.assert_allclose(weights, prior)
    assert min_norm_weights(np.ones((1, 4)), np.ones(1), 0.5).tolist() == [1]


@pytest.mark.parametrize("status", [4, 8, 9])
def test_weights_of_a_solver_that_stops_early_are_used(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """They are scaled to sum to 1, and what rounding made negative counts nothing."""
    stopped = OptimizeResult(
        x=np.array([0.5, 1.5, -1e-17]), success=False, status=status, message="stopped"
    )
    monkeypatch.setattr(weighting, "minimize", lambda *_, **__: stopped)
    weights = min_norm_weights(np.eye(3), np.full(3, 1 / 3), 1.0)
    np.testing.assert_allclose(weights, [0.25, 0.75, 0], atol=1e-16)
    assert weights.min() >= 0


def test_a_solver_that_finds_no_numbers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = OptimizeResult(x=np.array([0.5, np.nan]), success=True, status=0, message="lost")
    monkeypatch.setattr(weighting, "minimize", lambda *_, **__: lost)
    with pytest.raises(ArithmeticError, match=r"No weights of least norm were found: lost"):
        min_norm_weights(np.eye(2), np.full(2, 0.5), 1.0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_an_error(wrong: float) -> None:
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError):
        min_norm_weights(np.array([[1.0, wrong], [0.0, 2.0]]), np.full(2, 0.5), 1.0)
