"""How many clients are worth computing at once, and how many fit into memory."""

import psutil
import torch

from task.config import RunConfig
from task.features import GroupData

MAX_STACK = 256
"""More than this many clients at once saturate any device we know."""

PAYING_FLOPS = 8e6
"""On a CPU: stacks whose matrix products are larger gain nothing (`benchmarks/stack_size.py`)."""

MIN_STACK = 4
"""On a CPU: smaller stacks gain less than a tenth. Clients trained one by one are worth more: they
equal Flower's engine bit for bit."""

MEMORY_SHARE = 0.6
"""Share of the free memory that stacks may fill."""


def stack_size(
    tokens: float,
    config: RunConfig,
    device: torch.device,
    num_threads: int = 1,
    *,
    training: bool = True,
) -> int:
    """Return how many clients (or groups to score) to compute at once.

    Args:
        tokens: options in the largest one's episodes.
        config: the run's settings; `engine.stack-size` decides unless it is 0.
        device: where they are computed.
        num_threads: how many stacks are computed at the same time.
        training: whether gradients and optimizer states need memory too.
    """
    if config.engine.stack_size:
        return config.engine.stack_size
    budget = _free_bytes(device) * MEMORY_SHARE / num_threads
    fitting = int(budget / _bytes(tokens, config, training))
    paying = MAX_STACK
    if device.type == "cpu":
        paying = int(PAYING_FLOPS / (2 * tokens * config.predictor.width**2))
        paying = paying if paying >= MIN_STACK else 1
    return max(1, min(fitting, paying, MAX_STACK))


def _bytes(tokens: float, config: RunConfig, training: bool) -> float:
    """Estimate the memory of one client, float32, twice the expected tokens to be safe."""
    predictor = config.predictor
    layer = 10 * predictor.width + 2 * predictor.feedforward_width
    features = 4096  # of the largest encoders in use
    if not training:
        return 4 * 2 * tokens * (features + 4 * layer)
    kept = predictor.num_layers * layer + 2 * predictor.embedder_depth * predictor.width
    parameters = predictor.num_layers * (
        4 * predictor.width**2 + 2 * predictor.width * predictor.feedforward_width
    ) + predictor.width * (features + predictor.embedder_depth * predictor.width)
    # Parameters, gradients and Adam's two moments; activations, kept for the backward pass.
    return 4 * (5 * parameters + 2 * tokens * (2 * features + kept))


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        # PyTorch keeps what earlier rounds have freed: that is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    return float(psutil.virtual_memory().available)


def training_tokens(data: GroupData, config: RunConfig) -> float:
    """Return the expected number of options in a training step's episodes."""
    train, available = config.train, len(data.trainable)
    context = min((train.min_context + train.max_context) / 2, max(1, available - train.min_target))
    target = min((train.min_target + train.max_target) / 2, available - context)
    options = float(data.answers.lengths[data.trainable].mean())
    return train.episodes_per_step * (context + target) * options
