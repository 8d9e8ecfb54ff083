"""Where a client keeps what outlives a message: files, which survive a restart of its node."""

from pathlib import Path

from flwr.app import Context

from task.config import RunConfig
from task.encoder import cache_directory
from task.errors import ConfigError
from task.personal import CLIENTS_FOLDER


def state_folder(config: RunConfig, context: Context) -> Path:
    """Return the client's folder for this run.

    A node that is started with `--node-config 'state-path="/abs/folder"'` keeps its state there,
    apart for each run; two clients of one group need two folders. A simulation's nodes have the run
    directory, or, under a bare `flwr run` that names none, the cache.

    Raises:
        ConfigError: a node outside of a simulation has no `state-path`: the server's run config
            must not choose where it writes.
    """
    if state_path := context.node_config.get("state-path"):
        return Path(str(state_path)) / f"run-{context.run_id}"
    if "partition-id" not in context.node_config:
        raise ConfigError(
            "This node keeps files of its groups (own parameters, privacy ledger) and has no "
            "folder for them: start it with --node-config 'state-path=\"/abs/folder\"'."
        )
    if config.run.directory:
        return Path(config.run.directory) / CLIENTS_FOLDER
    return cache_directory(config.encoder) / CLIENTS_FOLDER / f"run-{context.run_id}"
