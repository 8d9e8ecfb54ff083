"""Settings of the testbed's runs: a small predictor, so that rounds cost little beside Flower."""

from typing import Any

SMALL: dict[str, Any] = {
    "encoder.dimension": 64,
    "predictor.width": 32,
    "predictor.num-layers": 2,
    "predictor.embedder-depth": 2,
    "predictor.feedforward-width": 32,
    "train.local-steps": 4,
    "evaluation.num-draws": 2,
}
