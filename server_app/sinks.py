"""Where metrics go: JSON Lines always; TensorBoard, Prometheus, Weights & Biases by config."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from server_app.prometheus import Prometheus, require_address
from task.config import LogConfig
from task.errors import ConfigError
from task.settings import Scalar


class Sink(Protocol):
    """Takes the metrics of a round."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Write the metrics of round `step`; values are numbers, texts, None or nested dicts."""

    def close(self) -> None:
        """Flush and release."""


class JsonLines:
    """One JSON object per round in `metrics.jsonl`."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("a")

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """See `Sink.log`."""
        self._stream.write(json.dumps({"round": step, **metrics}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """See `Sink.close`."""
        self._stream.close()


class TensorBoard:
    """TensorBoard events of every number; nested keys are joined with `/`.

    Args:
        folder: where they go.
        finished: the last finished round of a resumed run: events of later ones are hidden.
    """

    def __init__(self, folder: Path, finished: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if finished is None else finished + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """See `Sink.log`."""
        for key, value in numbers(metrics).items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # seen at once: a background thread writes the events

    def close(self) -> None:
        """See `Sink.close`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Scalar]) -> None:
        import wandb

        self._run = wandb.init(project=project, dir=str(folder), config=dict(config))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """See `Sink.log`."""
        self._run.log(numbers(metrics), step=step)

    def close(self) -> None:
        """See `Sink.close`."""
        self._run.finish()


@contextmanager
def closing_sinks(
    config: LogConfig, folder: Path, settings: Mapping[str, Scalar], finished: int | None = None
) -> Iterator[list[Sink]]:
    """Open the sinks that the config asks for, and close them at the end.

    Args:
        config: which ones.
        folder: the run directory.
        settings: all of the run's.
        finished: the last finished round of a resumed run.

    Raises:
        ConfigError: a sink cannot be had: see `check_sinks`.
    """
    check_sinks(config)
    sinks: list[Sink] = [JsonLines(folder / "metrics.jsonl")]
    if config.tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard", finished))
    if config.wandb_project:
        sinks.append(WeightsAndBiases(config.wandb_project, folder, settings))
    if config.prometheus_port:
        sinks.append(Prometheus(config, settings))
    try:
        yield sinks
    finally:
        for sink in sinks:
            sink.close()


def check_sinks(config: LogConfig) -> None:
    """Raise a `ConfigError` when a sink's package is missing, or its port is in use."""
    if config.wandb_project and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"log.wandb-project = {config.wandb_project!r}: the package wandb is not installed. "
            "Install it (pip install wandb) or leave the key empty."
        )
    if config.prometheus_port:
        require_address(config)


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten nested metrics to the numbers in them."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            flat.update(numbers(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = value
    return flat
