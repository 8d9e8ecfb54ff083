"""Weights of groups: how much each counts in the mean of their updates.

Suffixes: G groups, P entries of the parameter vector.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, minimize
from scipy.special import softmax

Weights = NDArray[np.float64]

_NO_FURTHER = 8
"""SLSQP's status where rounding keeps it from a further step: it is as close as it gets."""


def project_to_simplex(values_G: Weights) -> Weights:
    """Return the closest point with entries >= 0 that sum to 1 (Duchi et al. 2008, figure 1)."""
    descending_G = np.sort(values_G)[::-1]
    excess_G = (np.cumsum(descending_G) - 1) / np.arange(1, len(values_G) + 1)
    support = int(np.nonzero(descending_G > excess_G)[0][-1])
    projected_G: Weights = np.maximum(values_G - excess_G[support], 0)
    return projected_G


def exponentiated(weights_G: Weights, exponents_G: Weights) -> Weights:
    """Return weights times exp(exponents), scaled to sum to 1.

    A weight of 0 stays 0, unless all are: rounding has then lost what they were, and all are equal.
    """
    if not weights_G.any():
        weights_G = np.ones_like(weights_G)
    with np.errstate(divide="ignore"):
        tilted_G: Weights = softmax(np.log(weights_G) + exponents_G)
    return tilted_G


def min_norm_weights(vectors_GP: Weights, prior_G: Weights, epsilon: float) -> Weights:
    """Return the weights near the prior whose weighted sum of vectors is the shortest.

    arg min |sum_g w_g v_g|^2 with w in the simplex and |w_g - prior_g| <= epsilon, a quadratic
    programme of G variables (arXiv 2006.11489, eq. 9).

    Args:
        vectors_GP: the vectors.
        prior_G: weights that sum to 1.
        epsilon: largest distance of a weight from its prior; 0: the prior, 1: any weights.

    Raises:
        ArithmeticError: the solver gives up.
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
    if not solved.success and solved.status != _NO_FURTHER:
        raise ArithmeticError(f"No weights of least norm were found: {solved.message}")
    weights_G: Weights = np.clip(solved.x, 0, None)
    weights_G /= weights_G.sum()
    return weights_G
