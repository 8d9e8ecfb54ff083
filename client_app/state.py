"""Where a client keeps what outlives a message: files, which survive a restart of its node."""

import re
from pathlib import Path

from flwr.app import Context, Message

from task import records
from task.config import RunConfig
from task.errors import ConfigError
from task.paths import cache_directory
from task.personal import CLIENTS_FOLDER


def state_folder(config: RunConfig, context: Context, message: Message) -> Path:
    """Return the client's folder for the run that a message belongs to.

    A node that is started with `--node-config 'state-path="/abs/folder"'` keeps its state there,
    apart for each run; two clients of one group need two folders. A simulation's nodes have the run
    directory, or, under a bare `flwr run` that names none, the cache. A run that is resumed is
    another run to Flower: its key tells that it is the same.

    Raises:
        ConfigError: a node outside of a simulation has no `state-path`, or the key could be a path:
            the server must not choose where it writes.
    """
    key = run_key(message)
    if state_path := context.node_config.get("state-path"):
        return Path(str(state_path)) / f"run-{key}"
    if "partition-id" not in context.node_config:
        raise ConfigError(
            "This node keeps files of its groups (own parameters, privacy ledger, what compression "
            "left out) and has no folder for them: start it with --node-config "
            "'state-path=\"/abs/folder\"'."
        )
    if config.run.directory:
        return Path(config.run.directory) / CLIENTS_FOLDER
    if config.run.resume and (kept := Path(config.run.resume) / CLIENTS_FOLDER).is_dir():
        return kept
    return cache_directory(config.encoder) / CLIENTS_FOLDER / f"run-{key}"


def run_key(message: Message) -> str:
    """Return the key of the run that a message belongs to.

    Raises:
        ConfigError: it is none, and could be a path.
    """
    key = str(message.content.config_records[records.BRIEFING].get(records.RUN_KEY, ""))
    if not re.fullmatch(records.RUN_KEY_PATTERN, key):
        raise ConfigError(f"The run's key is {key!r}: expected 16 hex digits. Update the server.")
    return key
