"""`pluralllm doctor`: what is installed, which devices there are, what a run would use."""

import os
import platform
import shutil
from importlib import metadata
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cli.resources import simulation_resources
from cli.settings import Settings, parse_settings
from server_app.cohort_workers import Resources
from server_app.environment import PACKAGES
from task.errors import UserError
from task.features import load_roles
from task.paths import cache_directory, project_folder
from task.sources import load_survey


def doctor(settings: Settings = None) -> None:
    """Check the installation and say what a run with these settings would do."""
    table = Table("what", "found")
    table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    for package in (*PACKAGES, "opacus", "wandb"):
        table.add_row(package, _version(package))
    for command in ("flwr", "flower-superlink"):
        table.add_row(command, shutil.which(command) or "not on PATH")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("CPUs", str(os.cpu_count()))
    table.add_row("GPUs", ", ".join(gpus) or "none")
    table.add_row("project folder", str(project_folder()))
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    table.add_row(
        "Hugging Face hub", "offline (HF_HUB_OFFLINE)" if offline else "asked when needed"
    )
    for what, found in _run_rows(settings).items():
        table.add_row(what, found)
    Console().print(table)


def _run_rows(settings: list[str] | None) -> dict[str, str]:
    config = parse_settings(settings)
    cache = cache_directory(config.encoder)
    files = list(cache.rglob("*.npy")) if cache.is_dir() else []
    size = sum(file.stat().st_size for file in files) / 1e6
    rows: dict[str, Any] = {"feature cache": f"{cache}: {len(files)} files, {size:.1f} MB"}
    try:
        rows["survey"] = load_survey(config).summary(config.data.clients)
        roles = load_roles(config.data, config.evaluation, config.run.seed)
    except UserError as error:
        return rows | {"a run would fail": str(error)}
    train = sum(role == "train" for role in roles.values())
    rows[config.data.clients] = f"{train} train, {len(roles) - train} held out"
    rows["encoder"] = config.encoder.name
    if config.engine.name == "flower":
        rows["simulation"] = simulation_resources(len(roles)).federation_config()
        return rows
    try:
        found = Resources.of(config.engine)
    except UserError as error:
        return rows | {"a run would fail": str(error)}
    rows["simulation"] = (
        f"cohort engine, {found.num_workers} worker(s) on {found.device}, "
        f"{found.num_threads} thread(s) each"
    )
    return rows


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
