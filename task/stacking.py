"""Many copies of a predictor with different parameters, computed as one.

A stack of K predictors takes a batch of K * b episodes, b for each in turn, through the forward
pass of `task.predictor` as it stands; only its leaf modules are others: their parameters have a
leading dimension K, and a batched matrix product gives each predictor its own.

Suffixes: K stacked predictors, M rows of one predictor (its episodes and tokens), i inputs,
o outputs, w width, P entries of a predictor's parameter vector.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from task.errors import ConfigError
from task.parameters import Layout
from task.predictor import PreferencePredictor


class StackedLinear(nn.Module):
    """K linear layers of the same shape."""

    def __init__(self, linear: nn.Linear, size: int) -> None:
        super().__init__()
        self.weight = _stacked(linear.weight, size)
        self.bias = None if linear.bias is None else _stacked(linear.bias, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (K * b, ..., i) to (K * b, ..., o)."""
        x_KMi = x.reshape(len(self.weight), -1, x.shape[-1])
        weight_Kio = self.weight.transpose(1, 2)
        if self.bias is None:
            y_KMo = torch.bmm(x_KMi, weight_Kio)
        else:
            y_KMo = torch.baddbmm(self.bias.unsqueeze(1), x_KMi, weight_Kio)
        return y_KMo.view(*x.shape[:-1], -1)


class StackedLayerNorm(nn.Module):
    """K layer norms of the same shape."""

    def __init__(self, norm: nn.LayerNorm, size: int) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = _stacked(norm.weight, size)
        self.bias = _stacked(norm.bias, size)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of (K * b, ..., w)."""
        normed_KMw = F.layer_norm(x, x.shape[-1:], eps=self.eps).view(
            len(self.weight), -1, x.shape[-1]
        )
        scaled_KMw = torch.addcmul(self.bias.unsqueeze(1), normed_KMw, self.weight.unsqueeze(1))
        return scaled_KMw.view_as(x)


class Stack:
    """K predictors that are trained together, their parameters in one matrix.

    The optimizer, averaging and clipping see the matrix; `module` computes with views of it. A
    stack of one computes with the given predictor itself: bit for bit what the predictor computes.

    Args:
        predictor: gives shapes, feature statistics and device; a stack of one takes it over.
        size: K.

    Attributes:
        module: takes K * b episodes, b for each predictor in turn.
        layout: where the parameters lie in a row.
        values_KP: all parameters; their gradients are what the optimizer reads.
        gradients: views of those gradients, in the order of the module's parameters.
    """

    def __init__(self, predictor: PreferencePredictor, size: int) -> None:
        self.size = size
        self.module = predictor if size == 1 else _stacked_module(predictor, size)
        shapes = {name: parameter.shape for name, parameter in predictor.named_parameters()}
        self.layout = Layout.of(shapes)
        self.values_KP = nn.Parameter(predictor.feature_mean.new_zeros(size, self.layout.size))
        self.values_KP.grad = torch.zeros_like(self.values_KP)
        values = self.layout.views(self.values_KP.data)
        gradients = self.layout.views(self.values_KP.grad)
        self.gradients = []
        for name, parameter in self.module.named_parameters():
            view = values[name].view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            self.gradients.append(gradients[name].view(parameter.shape))

    def load(self, start_P: Tensor) -> None:
        """Give all K predictors the same parameters."""
        with torch.no_grad():
            self.values_KP.copy_(start_P)


def _stacked_module(predictor: PreferencePredictor, size: int) -> PreferencePredictor:
    """Return a copy whose leaf modules hold `size` predictors; parameters keep their names."""
    stacked = copy.deepcopy(predictor)
    for name, module in list(stacked.named_modules()):
        if isinstance(module, nn.Linear):
            stacked.set_submodule(name, StackedLinear(module, size))
        elif isinstance(module, nn.LayerNorm):
            stacked.set_submodule(name, StackedLayerNorm(module, size))
        elif list(module.parameters(recurse=False)):
            raise ConfigError(
                f"{name} is a {type(module).__name__}, which cannot be stacked: expected Linear "
                "and LayerNorm alone. Set engine.stack-size = 1 to train clients one after another."
            )
    return stacked


def _stacked(parameter: Tensor, size: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach().expand(size, *parameter.shape).clone())
