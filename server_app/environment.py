"""What a run was made with: versions and hardware."""

import os
import platform
from importlib import metadata
from typing import Any

import torch

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
