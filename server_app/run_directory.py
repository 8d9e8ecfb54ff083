"""The run directory: everything a run leaves, each file written whole or not at all."""

import io
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
import torch

from server_app.announcing import announce
from task.config import RunConfig
from task.errors import RunDirectoryError
from task.predictor import PreferencePredictor

PACKAGES = (
    "pluralllm",
    "flwr",
    "ray",
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
)


class RunDirectory:
    """Files of one run.

    - `config.toml`: all settings; `pluralllm run` takes it as it is.
    - `environment.json`: versions and hardware.
    - `status.json`: `running`, `completed` or `failed` with the reason.
    - `metrics.jsonl`: one line per round.
    - `summary.json`, `groups.parquet`: final scores, per role and per group.
    - `predictor-final/`, `predictor-best/`: loadable by `PreferencePredictor.from_pretrained`.
    - `plots/`: figures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """Create the directory and write what is known before the run.

        Raises:
            RunDirectoryError: it holds a run already, or cannot be written.
        """
        require_unused(path)
        directory = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            directory.write_status("running")
        except OSError as error:
            raise RunDirectoryError(f"run.directory = {str(path)!r}: {error}.") from error
        nested: dict[str, dict[str, Any]] = {}
        for key, value in config.to_flat().items():
            section, name = key.split(".", 1)
            nested.setdefault(section, {})[name] = value
        directory._write("config.toml", lambda file: file.write_text(tomli_w.dumps(nested)))
        directory.write_json("environment.json", environment())
        return directory

    def write_status(self, status: str, reason: str = "") -> None:
        """Say how the run stands."""
        self.write_json("status.json", {"status": status, "reason": reason})

    @contextmanager
    def recording_status(self) -> Iterator[None]:
        """Write how the block ended: `completed`, or `failed` with the reason."""
        try:
            yield
        except BaseException as error:
            reason = str(error) or type(error).__name__
            self.write_status("failed", reason)
            announce("run-failed", fields={"reason": reason}, level="error")
            raise
        self.write_status("completed")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        self._write(name, lambda file: file.write_text(text))

    def write_groups(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the per-group table."""
        import pandas as pd  # a third of a second that a run need not wait for at its start

        frame = pd.DataFrame([{"group": group, **entry} for group, entry in groups.items()])
        self._write("groups.parquet", lambda file: frame.to_parquet(file, index=False))

    def write_predictor(self, name: str, predictor: PreferencePredictor) -> None:
        """Write a predictor as `predictor-<name>/`, replacing the one before."""

        def save(folder: Path) -> None:
            predictor.save_pretrained(folder)
            # huggingface_hub adds an empty card that says the model had been pushed to the hub.
            (folder / "README.md").unlink(missing_ok=True)

        self._write(f"predictor-{name}", save)

    def write_plot(self, name: str, save: Callable[[Path], Any]) -> None:
        """Write a figure below `plots/`."""
        (self.path / "plots").mkdir(exist_ok=True)
        self._write(f"plots/{name}", save)

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write beside the target, then move it there."""
        target = self.path / name
        partial = target.with_name(f".{os.getpid()}-{target.name}")
        write(partial)
        if target.is_dir():  # file by file, so that there is a whole predictor at every moment
            for file in partial.iterdir():
                file.replace(target / file.name)
            partial.rmdir()
        else:
            partial.replace(target)


def require_unused(path: Path) -> None:
    """Raise a `RunDirectoryError` when a directory holds a run that has saved anything."""
    file = path / "status.json"
    running = file.exists() and json.loads(file.read_text())["status"] == "running"
    if running or (path / "metrics.jsonl").exists():
        raise RunDirectoryError(
            f"run.directory = {str(path)!r} holds a run already. Choose another directory, or move "
            "that one away: a run never overwrites what another has saved."
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of a run or a comparison.

    Raises:
        RunDirectoryError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise RunDirectoryError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{file} is damaged and cannot be read as JSON ({error}). Restore it, or move its "
            "folder away and run again."
        ) from error
    return content


def recorded_failure(path: Path) -> str:
    """Return why the run in a directory failed, if it could say so."""
    file = path / "status.json"
    return str(json.loads(file.read_text())["reason"]) if file.exists() else ""


def load_predictor(path: Path, which: str = "best") -> PreferencePredictor:
    """Load the `best` or `final` predictor of a run directory, or a saved predictor's folder.

    Raises:
        RunDirectoryError: there is no such predictor.
    """
    folder = path if (path / "model.safetensors").is_file() else path / f"predictor-{which}"
    if not (folder / "model.safetensors").is_file():
        raise RunDirectoryError(
            f"{path} holds no predictor: expected {folder / 'model.safetensors'}. Give a run "
            "directory that has finished an evaluation, or a saved predictor's folder."
        )
    with redirect_stdout(io.StringIO()):  # huggingface_hub prints what it does
        predictor: PreferencePredictor = PreferencePredictor.from_pretrained(folder, strict=True)
    return predictor


def environment() -> dict[str, Any]:
    """Return versions and hardware."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "packages": versions,
    }
