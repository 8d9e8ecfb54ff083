import math

import numpy as np
import pytest
import torch

from task.compression import compress, decompress
from task.config import RunConfig
from task.seeding import generator
from task.update_bound import largest_update


def config(**train: float):
    return RunConfig.from_flat({f"train.{key}": value for key, value in train.items()}).train


def moved(gradients_TP: np.ndarray, learning_rates: list[float], start_P, weight_decay=0.0):
    """How far AdamW itself carries parameters with these gradients."""
    parameters = torch.tensor(start_P, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([parameters], weight_decay=weight_decay)
    for gradient_P, learning_rate in zip(gradients_TP, learning_rates, strict=True):
        optimizer.param_groups[0]["lr"] = learning_rate
        parameters.grad = torch.tensor(gradient_P, dtype=torch.float64)
        optimizer.step()
    return float((parameters.detach() - torch.tensor(start_P)).norm())


def test_one_step_moves_every_parameter_by_the_learning_rate() -> None:
    bound = largest_update([0.01], config(), 400, 0.0)
    assert bound == pytest.approx(0.01 * 20, rel=2e-3)
    assert moved(np.full((1, 400), 1e6), [0.01], np.zeros(400)) == pytest.approx(0.2)


@pytest.mark.parametrize("steps", [1, 2, 6, 40])
def test_no_gradients_carry_adam_further(steps: int) -> None:
    random = generator(0, "gradients", steps)
    learning_rates = [0.01 / (1 + step) for step in range(steps)]
    bound = largest_update(learning_rates, config(), 50, 0.0)
    spikes = np.zeros((steps, 50))
    spikes[-1] = 1e9  # nothing, then all at once: the worst that Adam knows
    growing = np.exp(3.0 * np.arange(steps))[:, None] * np.ones((1, 50))
    best = 0.9 ** np.arange(steps)[::-1] / 0.999 ** np.arange(steps)[::-1]  # Cauchy's equality
    tries = [
        spikes,
        growing,
        best[:, None] * np.ones((1, 50)),
        *(random.standard_normal((20, steps, 50)) * 10.0 ** random.integers(-6, 6, (20, steps, 1))),
    ]
    largest = max(moved(each, learning_rates, np.zeros(50)) for each in tries)
    assert largest <= bound
    assert largest > 0.9 * bound  # no bound to hide a hundredfold update behind


def test_weight_decay_is_within_it() -> None:
    start_P = np.full(50, 30.0)
    learning_rates = [0.01] * 5
    gradients = np.ones((5, 50))  # both pull towards zero
    settings = config(**{"weight-decay": 0.5})
    bound = largest_update(learning_rates, settings, 50, float(np.linalg.norm(start_P)))
    way = moved(gradients, learning_rates, start_P, 0.5)
    assert way <= bound
    assert way > largest_update(learning_rates, config(), 50, 0.0)


def test_it_grows_with_the_square_root_of_the_parameters() -> None:
    one, many = (largest_update([0.01] * 6, config(), n, 0.0) for n in (1, 10_000))
    assert many == pytest.approx(one * math.sqrt(10_000))


@pytest.mark.parametrize("name", ["bfloat16", "int8"])
@pytest.mark.parametrize("learning_rate", [3.0e-4, 1.0e-3, 1.239e-3, 0.97e-2])
def test_rounding_by_compression_is_within_it(name: str, learning_rate: float) -> None:
    """With one step all move by the learning rate: the bound has no room of its own."""
    settings = RunConfig.from_flat({"compression.name": name}).compression
    update_P = np.full(1000, learning_rate, dtype=np.float32)
    update_P[::3] *= 0.9
    for size in (update_P, np.full(1000, learning_rate, dtype=np.float32)):
        exact = float(np.linalg.norm(size))
        rounded = decompress(compress(size, settings, generator(0, "test")), 1000)
        bound = largest_update([learning_rate], config(), 1000, 0.0, name)
        assert np.linalg.norm(rounded) <= bound
        assert bound < 1.15 * learning_rate * math.sqrt(1000)
        assert exact <= bound


def test_some_rounding_goes_beyond_the_bound_of_what_is_not_compressed() -> None:
    settings = RunConfig.from_flat({"compression.name": "bfloat16"}).compression
    update_P = np.full(1000, 1.005 * 2**-10, dtype=np.float32)  # rounds up by 0.28 %
    rounded = decompress(compress(update_P, settings, generator(0, "test")), 1000)
    assert np.linalg.norm(rounded) > largest_update([1.005 * 2**-10], config(), 1000, 0.0)
    assert np.linalg.norm(rounded) <= largest_update(
        [1.005 * 2**-10], config(), 1000, 0.0, "bfloat16"
    )
