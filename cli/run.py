"""`pluralllm run`: a thin front to `flwr run` in simulation."""

import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from cli.resources import simulation_resources
from cli.run_checks import require_startable
from cli.settings import Settings, parse_run_settings
from cli.superlink import CONNECTION, local_superlink
from deployment.flower import COMPLETED, Connection, app_folder, run_status
from server_app.cohort import simulate
from server_app.run_directory import recorded_failure
from task.accounting import ClientReleases
from task.config import RunConfig
from task.errors import ConfigError
from task.features import load_features, load_roles
from task.paths import default_run_directory
from task.sources import load_survey


def run(
    settings: Settings = None,
    actors: Annotated[
        int,
        typer.Option(
            help="Flower's engine: Ray actors, one CPU each. 0: chosen for this machine.", min=0
        ),
    ] = 0,
) -> None:
    """Train a preference predictor across user groups, in a simulation."""
    start(parse_run_settings(settings), actors)


def start(config: RunConfig, actors: int = 0) -> None:
    """Simulate a run, or let groups score responses, with the engine that the config names.

    Args:
        config: the run's settings, with absolute paths.
        actors: Ray actors of Flower's engine; 0: chosen for this machine.

    Raises:
        UserError: something that the user can put right.
        typer.Exit: Flower's run did not complete; why is printed.
    """
    if config.engine.name == "cohort":
        if actors:
            raise ConfigError(
                f"--actors {actors}: Flower's engine has actors; with engine.name = 'cohort' set "
                "engine.num-workers or engine.num-threads."
            )
        simulate(config)
        return
    if not config.run.directory and not config.run.resume:
        path = Path.cwd() / default_run_directory(config, datetime.now())
        config = replace(config, run=replace(config.run, directory=str(path)))
    num_clients = _check(config)
    resources = simulation_resources(num_clients, actors)
    print(f"Simulation: {resources.federation_config()}", flush=True)
    with local_superlink() as superlink, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.toml"
        file.write_text(tomli_w.dumps(config.to_flat()))
        command = ["flwr", "run", str(app_folder()), CONNECTION, "--stream"]
        command += ["--run-config", str(file)]
        command += ["--federation-config", resources.federation_config()]
        # `flwr` takes a folder of the connection's name in the current one for an app.
        started = subprocess.run(
            command, env=superlink.environment, cwd=superlink.home, check=False
        )
        status = (
            run_status(Connection(CONNECTION, superlink.home))
            if started.returncode == 0
            else "not started"
        )
    if status != COMPLETED:
        reason = recorded_failure(Path(config.run.resume or config.run.directory))
        print(f"error: the run did not complete ({status}). {reason}", file=sys.stderr)
        raise typer.Exit(1)


def _check(config: RunConfig) -> int:
    """Check everything that can be checked before starting anything; return the client count."""
    require_startable(config)
    load_survey(config)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    if config.privacy.unit == "client":
        ClientReleases.of(config, list(roles.values()).count("train"))
    load_features(config.data, config.encoder, config.run.seed)
    return len(roles)
