"""Where a run's relative paths start, and where it is written by default."""

import hashlib
import json
import os
import re
from datetime import datetime
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from task.config import EncoderConfig, RunConfig


def project_folder() -> Path:
    """Return the folder that relative paths of a `flwr run` start from.

    Flower unpacks the app elsewhere and runs it in the folder in which its SuperLink happened to be
    started, so neither `__file__` nor the working directory tells. The installed distribution
    remembers the folder it was installed from (PEP 610); `$PLURALLLM_PROJECT` overrides it, and a
    distribution installed from a registry falls back to `~/pluralllm`.
    """
    if chosen := os.environ.get("PLURALLLM_PROJECT"):
        return Path(chosen).expanduser().absolute()
    try:
        record = metadata.distribution("pluralllm").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        record = None
    source = json.loads(record) if record else {}
    if "dir_info" in source:  # not an archive or a repository
        return Path(unquote(urlparse(source["url"]).path))
    return Path.home() / "pluralllm"


def cache_directory(config: EncoderConfig) -> Path:
    """Return the folder of cached features: the setting, `$PLURALLLM_CACHE`, or the default."""
    chosen = config.cache_directory or os.environ.get("PLURALLLM_CACHE") or "~/.cache/pluralllm"
    return Path(chosen).expanduser()


def default_run_directory(config: RunConfig, now: datetime) -> str:
    """Return the relative run directory of a run that names none."""
    return f"runs/{now:%Y%m%d-%H%M%S}-{config.data.source}-seed{config.run.seed}"


def file_stem(group: str) -> str:
    """Return a group's name made safe for a file, with a hash that keeps groups apart."""
    safe = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")[:40]
    return f"{safe}-{hashlib.sha256(group.encode()).hexdigest()[:8]}"
