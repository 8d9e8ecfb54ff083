"""Weights of groups: how much each counts in the mean of their updates.

Suffixes: G groups, P entries of the parameter vector.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, minimize
from scipy.special import softmax

Weights = NDArray[np.float64]


def project_to_simplex(values_G: Weights) -> Weights:
    """Return the closest point with entries >= 0 that sum to 1 (Duchi et al. 2008, figure 1)."""
    descending_G = np.sort(values_G)[::-1]
    excess_G = (np.cumsum(descending_G) - 1) / np.arange(1, len(values_G) + 1)
    support = int(np.nonzero(descending_G > excess_G)[0][-1])
    projected_G: Weights = np.maximum(values_G - excess_G[support], 0)
    return projected_G


def tilted(exponents_G: Weights) -> Weights:
    """Return weights proportional to exp(exponents), in sum 1."""
    weights_G: Weights = softmax(exponents_G)
    return weights_G


def min_norm_weights(vectors_GP: Weights, prior_G: Weights, epsilon: float) -> Weights:
    """Return the weights near the prior whose weighted sum of vectors is the shortest.

    arg min |sum_g w_g v_g|^2 with w in the simplex and |w_g - prior_g| <= epsilon, a quadratic
    programme of G variables (arXiv 2006.11489, eq. 9).

    Args:
        vectors_GP: the vectors.
        prior_G: weights that sum to 1.
        epsilon: largest distance of a weight from its prior; 0: the prior, 1: any weights.

    Raises:
        ArithmeticError: a vector is not finite.
    """
    if not epsilon:
        return prior_G
    gram_GG = vectors_GP @ vectors_GP.T
    gram_GG /= max(float(np.trace(gram_GG)) / len(gram_GG), np.finfo(np.float64).tiny)
    solved = minimize(  # type: ignore[call-overload]  # its stubs take arrays of one dimension
        lambda w_G: float(w_G @ gram_GG @ w_G),
        prior_G,
        jac=lambda w_G: 2 * gram_GG @ w_G,
        bounds=Bounds(np.maximum(prior_G - epsilon, 0), np.minimum(prior_G + epsilon, 1)),
        constraints=LinearConstraint(np.ones(len(prior_G)), 1, 1),
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    # A solver that stops early, for rounding or after many steps, still gives weights of the kind.
    if not (np.isfinite(gram_GG).all() and np.isfinite(solved.x).all()):
        raise ArithmeticError(f"No weights of least norm were found: {solved.message}")
    weights_G: Weights = np.clip(solved.x, 0, None)
    weights_G /= weights_G.sum()
    return weights_G
