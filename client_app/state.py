"""Where a client keeps what outlives a message: files, which survive a restart of its node."""

from pathlib import Path

from flwr.app import Context

from task.config import RunConfig
from task.encoder import cache_directory
from task.personal import CLIENTS_FOLDER


def state_folder(config: RunConfig, context: Context) -> Path:
    """Return the client's folder for this run.

    A node that is started with `--node-config 'state-path="/abs/folder"'` keeps its state there,
    apart for each run. A simulation's nodes have the run directory, or, under a bare `flwr run`
    that names none, the cache.
    """
    if state_path := context.node_config.get("state-path"):
        return Path(str(state_path)) / f"run-{context.run_id}"
    if config.run.directory:
        return Path(config.run.directory) / CLIENTS_FOLDER
    return cache_directory(config.encoder) / CLIENTS_FOLDER / f"run-{context.run_id}"
