"""A run that trains nothing: it lets the groups score a file of responses (`score.rollouts`)."""

import logging
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from server_app.announcing import announce, announce_as
from server_app.federated_reward import FederatedRewardModel
from server_app.open_run import new_run_path
from server_app.run_directory import RunDirectory
from server_app.stopping import called_when_stopped
from task.config import NODES, RunConfig, split_names
from task.encoder import make_encoder
from task.errors import ConfigError, EncoderError, RewardError, suggest
from task.features import load_roles
from task.predictor import PreferencePredictor
from task.reward_aggregation import aggregate, make_aggregation
from task.rollouts import Rollouts, read_rollouts, write_scored
from task.saved_predictor import load_predictor, require_built_as

SCORES = "scores.jsonl"


def run_scoring(grid: Grid, config: RunConfig) -> RunDirectory:
    """Let the groups of whatever nodes the grid reaches score `score.rollouts`; write the scores.

    Args:
        grid: the runtime's grid.
        config: the run's settings, with absolute paths.

    Returns:
        The run directory: settings, environment and status; the scores too, unless `score.output`
        names a file.

    Raises:
        UserError: something that the user can put right, named before any group is asked.
        RewardError: too few groups scored the responses.
    """
    announce_as(config.log)
    logging.getLogger("flwr").setLevel(logging.INFO if config.log.flower else logging.ERROR)
    path = new_run_path(config, datetime.now())
    rollouts, predictor = require_scorable(config, path)
    directory = RunDirectory(path)
    with directory.locked():
        directory = RunDirectory.create(path, config)
        stopped = partial(directory.write_stopped, "by a signal, or by flwr stop")
        with directory.recording_status(), called_when_stopped(stopped):
            announce("run-started", fields={"directory": str(path)})
            _score(grid, config, rollouts, predictor, output_of(config, path))
    announce("run-completed", fields={"directory": str(path)})
    return directory


def require_scorable(config: RunConfig, directory: Path) -> tuple[Rollouts, PreferencePredictor]:
    """Check all that can be checked before a group is asked; return what it is asked with.

    Args:
        config: the run's settings, with absolute paths.
        directory: the run's.

    Raises:
        RewardError: the rollouts' file cannot be used, or the output is there already.
        RunDirectoryError: there is no predictor.
        ConfigError: the predictor, or a group, is not the settings'.
        EncoderError: the predictor's encoder is not.
    """
    output = output_of(config, directory)
    if output.exists():
        raise RewardError(f"{output} exists already: scores never overwrite a file. Name another.")
    if config.score.output and not output.parent.is_dir():
        raise RewardError(f"score.output = {str(output)!r}: the folder {output.parent} is missing.")
    predictor = load_predictor(Path(config.score.predictor))
    require_built_as(predictor, config.predictor)
    if config.data.source != NODES:  # nodes say themselves which groups and encoder they have
        _require_same_encoder(config, predictor)
        roles = load_roles(config.data, config.evaluation, config.run.seed)
        for group in split_names(config.score.groups):
            if group not in roles:
                raise ConfigError(
                    f"score.groups names {group!r}, which takes no part.{suggest(group, roles)}"
                )
    return read_rollouts(config.score.rollouts), predictor


def output_of(config: RunConfig, directory: Path) -> Path:
    """Return where the scores go."""
    return Path(config.score.output) if config.score.output else directory / SCORES


def _score(
    grid: Grid,
    config: RunConfig,
    rollouts: Rollouts,
    predictor: PreferencePredictor,
    output: Path,
) -> None:
    reward = FederatedRewardModel.connect(grid, config, predictor)
    number = len(rollouts)
    announce(
        "scoring",
        f"{len(reward.groups)} groups score {number} responses: {', '.join(reward.groups)}",
        {"groups": list(reward.groups), "responses": number},
    )
    if rollouts.against is None and len(reward.groups) > 1:
        announce(
            "nothing-against",
            "WARNING: score.rollouts has no column against: a score is the response's own logit, "
            "which has another zero for every group and prompt. Only differences between responses "
            "to one prompt mean something; min, max, nash and adaptive-alpha need log-odds.",
            level="warning",
        )
    texts = (rollouts.prompts, rollouts.responses)
    scores_BG = reward.scores(*texts, against=rollouts.against).double().numpy()
    rule = make_aggregation(config.score.aggregation)
    scores_B = aggregate(rule, scores_BG, reward.groups).tolist()
    by_group = {
        group: column_B.tolist()
        for group, column_B in zip(reward.groups, scores_BG.T, strict=True)
        if not np.isnan(column_B).any()
    }
    write_scored(output, rollouts, scores_B, by_group)
    text = (
        f"Scores: {output} ({number} responses, {len(by_group)} groups, score.aggregation = "
        f"{config.score.aggregation})"
    )
    fields = {"file": str(output), "responses": number, "groups": list(by_group)}
    announce("scores-written", text, fields)


def _require_same_encoder(config: RunConfig, predictor: PreferencePredictor) -> None:
    fingerprint = make_encoder(config.encoder).fingerprint
    if fingerprint != predictor.encoder.get("fingerprint"):
        raise EncoderError(
            f"score.predictor = {config.score.predictor!r} was trained on features of "
            f"{predictor.encoder.get('fingerprint')}, but encoder.name = {config.encoder.name!r} "
            f"is {fingerprint}. Give the same encoder."
        )
