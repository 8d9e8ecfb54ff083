"""Weighted means of clients' parameters, the same to the bit in any order and grouping.

Suffixes: K clients, P entries of the parameter vector (`task.parameters.Layout`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 14
_MOST_TRIALS = 60


@dataclass(frozen=True)
class Reduction:
    """What a strategy that needs no single client's parameters wants instead: their mean.

    Attributes:
        weighted: weigh clients by their number of examples, as FedAvg does, instead of equally.
        clipping_norm: L2 norm to which each client's update is clipped first; 0: no clipping.
    """

    weighted: bool = True
    clipping_norm: float = 0.0


class WeightedSum:
    """A sum of w_k * x_k and of w_k that does not depend on the order of its terms.

    Local training amplifies a last bit that differs to visible differences within a few rounds
    (Adam divides small gradients by themselves), so results could not be compared between engines,
    numbers of workers or orders of replies if the mean depended on them. The sum is kept as an
    unevaluated pair of float64 (Knuth's TwoSum), some 106 bits, and rounded once, at the end. So
    terms may differ by a factor of 2^50 or so; weights are to be integers, as numbers of examples.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.weight = 0.0
        self._high_P = torch.zeros(size, dtype=torch.float64, device=device)
        self._low_P = torch.zeros_like(self._high_P)

    def add(self, values_P: Tensor, weight: float) -> None:
        """Add one client's parameters."""
        self.weight += weight
        self._add(values_P, weight)

    def merge(self, other: "WeightedSum") -> None:
        """Add all that another sum holds."""
        self.weight += other.weight
        self._add(other._high_P.to(self._high_P.device), 1.0)
        self._low_P += other._low_P.to(self._low_P.device)

    def cpu(self) -> "WeightedSum":
        """Return a copy of this sum in the memory of the CPU."""
        moved = WeightedSum(0)
        moved.weight = self.weight
        moved._high_P = self._high_P.to("cpu", copy=True)
        moved._low_P = self._low_P.to("cpu", copy=True)
        return moved

    def mean(self) -> Tensor:
        """Return the (P,) weighted mean in float32.

        Raises:
            ZeroDivisionError: nothing of any weight was added.
        """
        if not self.weight:
            raise ZeroDivisionError("A weighted mean needs a weight above 0.")
        return ((self._high_P + self._low_P) / self.weight).to(torch.float32)

    def total_update(self, start_P: Tensor) -> Tensor:
        """Return the (P,) sum of w_k * (x_k - start) in float64."""
        start_P = start_P.to(self._high_P.device, torch.float64)
        return (self._high_P - self.weight * start_P) + self._low_P

    def _add(self, values_P: Tensor, weight: float) -> None:
        """Add weight * values, in blocks that stay in a core's cache."""
        block = _BLOCK if values_P.device.type == "cpu" else max(1, len(values_P))
        for high, low, values in zip(
            *(vector.split(block) for vector in (self._high_P, self._low_P, values_P)),  # type: ignore[no-untyped-call]
            strict=True,
        ):
            term = values.to(torch.float64) * weight
            total = high + term
            rounded = total - high
            low += (high - (total - rounded)).add_(term.sub_(rounded))
            high.copy_(total)


def clip_update(start_P: Tensor, values_P: Tensor, clipping_norm: float) -> Tensor:
    """Return parameters whose update from `start_P` has at most this L2 norm, rounding included.

    All parameters together are one vector (arXiv 1712.07557, algorithm 1). An update within the
    norm is returned as it is; a zero update is safe.

    Raises:
        ValueError: the clipping norm is not above 0, or a parameter is not finite.
    """
    if not clipping_norm > 0:
        raise ValueError(f"clipping_norm = {clipping_norm}: expected a number above 0.")
    start_P64 = start_P.to(torch.float64)
    update_P = values_P.to(torch.float64) - start_P64
    norm = _norm(update_P)
    if norm <= clipping_norm:
        return values_P
    factor = clipping_norm / norm
    for trial in range(_MOST_TRIALS):
        clipped_P = (start_P64 + update_P * factor).to(values_P.dtype)
        excess = _norm(clipped_P.to(torch.float64) - start_P64) / clipping_norm
        if excess <= 1:
            return clipped_P
        # Rounding has made the update longer. Ever larger steps, as small ones may all be rounded
        # to the same parameters; the shortest update is that of nothing.
        factor *= (1 - min(0.5, 1e-9 * 4**trial)) / excess
    raise ValueError("Parameters are not finite: their update cannot be clipped.")


def _norm(vector_P: Tensor) -> float:
    if vector_P.device.type == "cpu":
        # Unlike torch's, NumPy's sum of squares does not depend on the number of threads.
        return math.sqrt(float(np.square(vector_P.numpy()).sum()))
    return float(torch.linalg.vector_norm(vector_P))
