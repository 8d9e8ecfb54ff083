"""`pluralllm deploy run`: check a run's settings, then hand it to the deployment's SuperLink."""

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import typer

from cli.run_checks import require_startable
from cli.settings import merge_settings, with_resumed
from deployment.coordinator import Coordinator
from deployment.flower import COMPLETED, UNKNOWN
from deployment.registration import known_nodes
from deployment.runs import follow_run, start_run
from deployment.superlink import probe_superlink
from server_app.run_directory import recorded_failure
from task.accounting import ClientReleases
from task.config import NODES, RunConfig
from task.errors import ConfigError, DeploymentError
from task.paths import default_run_directory
from task.settings import Scalar


def run_on_nodes(folder: Path, settings: list[str] | None, *, detach: bool) -> None:
    """Start a run on the deployment's nodes; see `deploy run`.

    Raises:
        ConfigError: a setting is wrong, or cannot be had on nodes.
        DeploymentError: the SuperLink does not run, or does not take the run.
    """
    coordinator = Coordinator.open(folder)
    config = nodes_config(coordinator, merge_settings(settings), datetime.now())
    _check(coordinator, config)
    shown = os.path.relpath(folder)
    found = probe_superlink(coordinator)
    if not found.up:
        raise DeploymentError(
            f"{found.reason} Start the SuperLink with `pluralllm deploy superlink {shown}`."
        )
    _say_who_is_missing(coordinator)
    directory = Path(config.run.resume or config.run.directory)
    run = start_run(coordinator, config.to_flat(), directory)
    print(f"Run {run.run_id} started; it is written to {directory}.", flush=True)
    if detach:
        print(f"`pluralllm deploy status {shown}` says how it stands.")
        return
    try:
        status = follow_run(coordinator, run)
    except KeyboardInterrupt:
        print(
            f"\nRun {run.run_id} goes on without this command: `pluralllm deploy status {shown}` "
            "says how it stands."
        )
        raise typer.Exit(130) from None
    if status.startswith(UNKNOWN):
        typer.echo(
            f"error: how the run stands is not known, and it may go on ({status}). `pluralllm "
            f"deploy status {shown}` tells, once the SuperLink answers.",
            err=True,
        )
        raise typer.Exit(1)
    if status != COMPLETED:
        reason = recorded_failure(directory)
        typer.echo(f"error: the run did not complete ({status}). {reason}", err=True)
        raise typer.Exit(1)


def nodes_config(coordinator: Coordinator, given: dict[str, Scalar], now: datetime) -> RunConfig:
    """Return a run's settings as the deployment has it.

    Args:
        coordinator: the deployment's folder.
        given: keys that files and the command line set. With `run.resume`, that run's come first.
        now: names the run's directory, unless `run.directory` does.

    Raises:
        ConfigError: a setting is wrong, or cannot be had on nodes.
        RunDirectoryError: `run.resume` names no run.
    """
    given = with_resumed(given)
    for key, only in (("data.source", NODES), ("engine.name", "flower")):
        if given.get(key, only) != only:
            raise ConfigError(
                f"{key} = {given[key]!r}: expected {only!r} (or nothing) for a run on nodes. "
                "`pluralllm run` makes runs on this machine alone."
            )
    given = {**given, "data.source": NODES}
    if not coordinator.is_insecure:  # nodes without keys are known by nothing
        given.setdefault("nodes.registry", str(coordinator.registry))
    config = RunConfig.from_flat(given).with_absolute_paths(Path.cwd())
    if config.run.directory or config.run.resume:
        return config
    directory = str(coordinator.own / default_run_directory(config, now))
    return replace(config, run=replace(config.run, directory=directory))


def _check(coordinator: Coordinator, config: RunConfig) -> None:
    """Check everything that can be checked before the nodes hear of the run."""
    require_startable(config)
    if config.privacy.unit == "client" and not coordinator.is_insecure:
        parties = [party for party in coordinator.parties() if party.role == "train"]
        ClientReleases.of(config, sum(len(party.groups) for party in parties))


def _say_who_is_missing(coordinator: Coordinator) -> None:
    if coordinator.is_insecure:
        return
    known = known_nodes(coordinator)
    missing = [
        party.name
        for party in coordinator.parties()
        if known.get(party.node_id, {}).get("status") != "online"
    ]
    if missing:
        print(f"Not connected: {', '.join(missing)}. The run waits (nodes.patience).", flush=True)
