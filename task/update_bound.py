"""How far local training can carry parameters: what no client that trains as told goes beyond."""

import math
from collections.abc import Sequence

from task.compression import BLOCK
from task.config import TrainConfig

BETA_1, BETA_2 = 0.9, 0.999
"""Adam's, as local training leaves them (`torch.optim.AdamW`)."""

ROUNDING = 1.001
BFLOAT16 = 1 + 2.0**-8
"""How much larger the nearest bfloat16 of a number can be: half of its last of 8 digits."""


def largest_update(
    learning_rates: Sequence[float],
    config: TrainConfig,
    num_parameters: int,
    start_norm: float,
    compression: str = "none",
) -> float:
    """Return the largest L2 norm of an update that a round of local training can make.

    Adam divides gradients by themselves, so that it cannot step further than its learning rates
    allow, whatever the gradients: with bias correction, by Cauchy and Schwarz, its t-th step since
    the start moves no parameter by more than the learning rate times

        (1 - b1) / sqrt(1 - b2) * sqrt(sum over k < t of (b1^2 / b2)^k)
            * sqrt(1 - b2^t) / (1 - b1^t)

    which is 1 for the first step and grows slowly (arXiv 1412.6980, section 2.1, gives the order).

    Args:
        learning_rates: one per local step.
        config: the weight decay.
        num_parameters: of the predictor.
        start_norm: L2 norm of the parameters at the start, which weight decay shrinks.
        compression: `none`, `bfloat16` or `int8`: what it rounds may be larger than it was.
    """
    ratio = BETA_1**2 / BETA_2
    moved = 0.0
    for step, learning_rate in enumerate(learning_rates, start=1):
        gain = (
            (1 - BETA_1)
            / math.sqrt(1 - BETA_2)
            * math.sqrt((1 - ratio**step) / (1 - ratio))
            * math.sqrt(1 - BETA_2**step)
            / (1 - BETA_1**step)
        )
        decayed = learning_rate * config.weight_decay * (start_norm + moved)
        moved += learning_rate * gain * math.sqrt(num_parameters) + decayed
    if compression == "bfloat16":
        moved *= BFLOAT16
    elif compression == "int8":
        # An entry is rounded by less than its block's scale, a 127th of the block's largest. The
        # largest squared, over all blocks, add up to no more than all entries squared.
        moved *= 1 + math.sqrt(BLOCK) / 127
    return moved * ROUNDING
