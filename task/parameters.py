"""Parameters as one vector: a layout that everything which treats them as a vector shares.

Suffixes: K clients, P entries of the vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Entries; every parameter starts at a multiple, as fast matrix products on a GPU ask for."""


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in a vector; entries between parameters stay 0.

    Attributes:
        shapes: parameter name to shape, in order.
        offsets: parameter name to the position of its first entry.
        size: P.
    """

    shapes: dict[str, tuple[int, ...]]
    offsets: dict[str, int]
    size: int

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> "Layout":
        """Lay parameters of these shapes out one after another."""
        offsets, end = {}, 0
        for name, shape in shapes.items():
            offsets[name] = end
            end += -(-prod(shape) // _ALIGNMENT) * _ALIGNMENT
        return cls({name: tuple(shape) for name, shape in shapes.items()}, offsets, end)

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return a new (P,) vector of these parameters.

        Raises:
            ValueError: a parameter is missing, unknown, or of another shape.
        """
        given = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        if given != self.shapes:
            differing = sorted(given.items() ^ self.shapes.items())
            raise ValueError(f"Not this predictor's parameters: {differing[:4]} differ.")
        first = next(iter(parameters.values()))
        vector_P = torch.zeros(self.size, dtype=first.dtype, device=first.device)
        for name, view in self.views(vector_P).items():
            view.copy_(parameters[name].detach())
        return vector_P

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views of the parameters in a (P,) vector or (K, P) matrix."""
        leading = vector.shape[:-1]
        return {
            name: vector[..., offset : offset + prod(shape)].view((*leading, *shape))
            for (name, shape), offset in zip(
                self.shapes.items(), self.offsets.values(), strict=True
            )
        }
