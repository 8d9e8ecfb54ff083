"""Reading what a run or a comparison left; a damaged file is named in one line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_app.run_directory import read_json
from task.config import read_toml
from task.errors import ConfigError, RunDirectoryError
from task.settings import Scalar

RUN_FILES = ("config.toml", "status.json", "metrics.jsonl")
COMPARISON_FILES = ("comparison.json", "results.json")


@dataclass(frozen=True)
class RunFiles:
    """The files of a run directory; None or empty what is not there (yet).

    Attributes:
        path: the directory.
        settings: `config.toml`, with dotted keys.
        environment: `environment.json`.
        status: `running`, `completed`, `failed`, `stopped`, or empty when unknown.
        reason: why it failed or was stopped.
        rounds: the lines of `metrics.jsonl`.
        summary: `summary.json`.
        groups: group to its entry of `groups.parquet`.
    """

    path: Path
    settings: dict[str, Scalar]
    environment: dict[str, Any]
    status: str
    reason: str
    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    groups: dict[str, dict[str, Any]]


def kind_of(directory: Path) -> str:
    """Return `comparison` or `run`.

    Raises:
        RunDirectoryError: it is neither.
    """
    if not directory.is_dir():
        what = "is a file, not a directory" if directory.exists() else "does not exist"
        raise RunDirectoryError(
            f"{directory} {what}. Give the directory of a run or of a comparison."
        )
    if any((directory / name).is_file() for name in COMPARISON_FILES):
        return "comparison"
    if any((directory / name).is_file() for name in RUN_FILES):
        return "run"
    raise RunDirectoryError(
        f"{directory} holds neither a run ({', '.join(RUN_FILES)}) nor a comparison "
        f"({', '.join(COMPARISON_FILES)}). Give the directory that `pluralllm run` or "
        "`pluralllm compare` has written."
    )


def read_run(directory: Path) -> RunFiles:
    """Read a run directory, finished or not.

    Raises:
        RunDirectoryError: a file is damaged.
    """
    status = _json(directory / "status.json")
    return RunFiles(
        path=directory,
        settings=_settings(directory / "config.toml"),
        environment=_json(directory / "environment.json"),
        status=str(status.get("status", "")),
        reason=str(status.get("reason", "")),
        rounds=_json_lines(directory / "metrics.jsonl"),
        summary=_json(directory / "summary.json"),
        groups=_groups(directory / "groups.parquet"),
    )


def _settings(path: Path) -> dict[str, Scalar]:
    if not path.is_file():
        return {}
    try:
        return read_toml(path)
    except ConfigError as error:
        raise _damaged(path, str(error)) from None


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when there is no such file."""
    if not path.is_file():
        return {}
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no JSON object")
    return content


def _json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rounds = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            content = json.loads(line.decode())
        except ValueError as error:  # not UTF-8, or not JSON
            raise _damaged(path, f"line {number} is not valid JSON ({error})") from None
        if not isinstance(content, dict) or "round" not in content:
            raise _damaged(path, f"line {number} is no round")
        rounds.append(content)
    return rounds


def _groups(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    import pandas as pd  # a third of a second that other commands need not wait for

    try:
        frame = pd.read_parquet(path)
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return {str(row.pop("group")): {str(k): v for k, v in row.items()} for row in rows}
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _damaged(path, f"it is not a Parquet table of groups ({reason})") from None


def _damaged(path: Path, why: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path} is cut off or damaged: {why.rstrip('.')}. Copy it again from where the run wrote "
        "it, or move it away: the report then leaves out what it held."
    )
