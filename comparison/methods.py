"""The methods that are compared: each turns a cell into its result."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from comparison import plan
from comparison.cells import CellResult, Point
from comparison.plan import Cell
from comparison.trial import Trial, pooled_sums, train_with_curve
from server_app.cohort import simulate
from server_app.reported_groups import ReportedGroups
from server_app.run_directory import RunDirectory, read_json
from task.baselines import population_sums, predict_known
from task.encoder import saved_settings
from task.errors import UserError
from task.evaluation import Predict, evaluation_splits, predict_with, score_splits
from task.features import GroupData
from task.metrics import GroupScores
from task.operations_config import CheckpointConfig
from task.personal import CLIENTS_FOLDER, PersonalStore
from task.population import PopulationAnswers
from task.predictor import PreferencePredictor
from task.probes import LinearProbe, MlpProbe
from task.saved_predictor import load_predictor
from task.sources import load_survey

Compute = Callable[[Trial, Path], CellResult]
"""(trial, the cell's folder) to the result, its seconds still 0."""


def compute_cell(cell: Cell, folder: Path) -> CellResult:
    """Compute a cell; a federated one leaves its run directory in the folder.

    Raises:
        UserError: see the method.
    """
    started = time.perf_counter()
    trial = Trial(cell)
    result = _told_of_groups(METHODS[cell.method.split()[0]](trial, folder), trial)
    scores = [score for point in result.points for score in point.groups.values()]
    scores += [each.all.value for each in result.scores.values()]
    if not np.isfinite(scores).all():
        raise UserError("Training diverged: a score is not finite. Lower train.learning-rate.")
    return replace(result, seconds=time.perf_counter() - started)


def _federated(trial: Trial, folder: Path) -> CellResult:
    """Federated training as `pluralllm run` does it: the ServerApp on the cohort engine."""
    config = trial.config
    one_core = replace(config.engine, num_workers=1, num_threads=config.engine.num_threads or 1)
    run = replace(config.run, directory=str(folder / "run"))
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        directory = simulate(
            replace(config, run=run, engine=one_core, checkpoint=CheckpointConfig(every=0))
        )
    lines = (directory.path / "metrics.jsonl").read_text().splitlines()
    points = []
    seconds, megabytes = 0.0, _disclosed_megabytes(trial)
    for entry in map(json.loads, lines):
        # The last line of a run that its privacy budget has stopped is of an evaluation alone.
        seconds += entry.get("train_seconds", 0.0)
        sent = entry.get("megabytes_down", 0.0) + entry.get("megabytes_up", 0.0)
        megabytes += sent - entry.get("evaluation_megabytes", 0.0)
        if "groups" in entry:
            steps = entry["round"] * config.train.local_steps
            episodes = steps * config.train.episodes_per_step * _cohort_size(trial)
            groups = entry["groups"] | entry.get("personal", {}).get("groups", {})
            points.append(Point(entry["round"], steps, episodes, seconds, megabytes, groups))
    predictor = load_predictor(directory.path, "final")
    result = _result(trial, predict_with(predictor, predictor.prior), points)
    return replace(
        result,
        scores={**result.scores, **_personal_scores(trial, predictor, directory)},
        privacy=read_json(directory.path / "summary.json")["privacy"],
    )


def _personal_scores(
    trial: Trial, predictor: PreferencePredictor, directory: RunDirectory
) -> dict[str, GroupScores]:
    """Score the training groups that keep parameters of their own by those."""
    store = PersonalStore(directory.path / CLIENTS_FOLDER)
    scores: dict[str, GroupScores] = {}
    for data in trial.train:
        if personal := store.load(data.group):
            predictor.set_parameters(personal.parameters)
            scores |= trial.score(predict_with(predictor, predictor.prior), [data])
    return scores


def _centralized(trial: Trial, _folder: Path, *, equal_steps: bool) -> CellResult:
    """One predictor on the pooled training groups.

    With equal rounds an epoch is one optimizer step on an episode of every group, as in the paper;
    with equal steps it is as many as a client makes in a round.
    """
    config = trial.config
    train = config.train if equal_steps else replace(config.train, local_steps=1)
    predictor = PreferencePredictor.initial(
        config.predictor,
        pooled_sums(trial.train),
        saved_settings(config.encoder),
        config.run.seed,
    ).to(trial.device)
    predict = predict_with(predictor, trial.prior)
    curve = train_with_curve(
        predictor,
        trial.train,
        train,
        trial,
        lambda: trial.score(predict, trial.groups.values()),
        _answers_megabytes(trial.train),
    )
    return _result(trial, predict, curve.points, curve.scores)


def _local(trial: Trial, _folder: Path) -> CellResult:
    """One predictor per group, from what the group itself has answered.

    A training group learns from its trainable questions. A held-out group has answered its context
    alone, so one predictor is trained for each of its context draws.
    """
    config = trial.config
    scores: dict[str, GroupScores] = {}
    curves = []
    for data in trial.groups.values():
        for draw, split in enumerate(evaluation_splits(data, config.evaluation, config.run.seed)):
            if data.role == "train" and draw:
                break  # its questions for training do not depend on the context
            answered = data if data.role == "train" else replace(data, trainable=split.context)
            predictor = PreferencePredictor.initial(
                config.predictor,
                pooled_sums([data]),
                saved_settings(config.encoder),
                config.run.seed,
            ).to(trial.device)
            predict = predict_with(predictor)
            evaluate = partial(_score_local, trial, predict, data, draw)
            curve = train_with_curve(predictor, [answered], config.train, trial, evaluate)
            curves.append(curve.points)
            scores[data.group] = scores.get(data.group, GroupScores()) + curve.scores[data.group]
    return CellResult(trial.roles, scores, _merged(curves), {}, 0.0)


def _mlp_probe(trial: Trial, _folder: Path) -> CellResult:
    """The predictor without attention, trained as the centralized one with equal steps."""
    config = trial.config
    probe = MlpProbe(config.predictor, pooled_sums(trial.train), config.run.seed).to(trial.device)
    predict = predict_with(probe, trial.prior)
    curve = train_with_curve(
        probe,
        trial.train,
        config.train,
        trial,
        lambda: trial.score(predict, trial.groups.values()),
        _answers_megabytes(trial.train),
    )
    return _result(trial, predict, curve.points, curve.scores)


def _linear_probe(trial: Trial, _folder: Path) -> CellResult:
    """Ridge regression on the pooled training groups and on the context."""
    return _result(trial, LinearProbe(trial.train))


def _population_mean(trial: Trial, _folder: Path) -> CellResult:
    """The mean of the (other) training groups on the same question."""
    survey = load_survey(trial.config)
    sums = population_sums(survey, trial.roles)
    everyone = predict_known(sums.mean())
    others = {data.group: predict_known(sums.mean_of_others(data.answers)) for data in trial.train}
    return _result(trial, lambda data, split: others.get(data.group, everyone)(data, split))


def _uniform(trial: Trial, _folder: Path) -> CellResult:
    """The same share for every option."""
    return _result(trial, predict_known({}))


METHODS: dict[str, Compute] = {
    plan.FEDERATED: _federated,
    plan.CENTRALIZED_ROUNDS: partial(_centralized, equal_steps=False),
    plan.CENTRALIZED_STEPS: partial(_centralized, equal_steps=True),
    plan.LOCAL: _local,
    plan.LINEAR_PROBE: _linear_probe,
    plan.MLP_PROBE: _mlp_probe,
    plan.POPULATION_MEAN: _population_mean,
    plan.UNIFORM: _uniform,
}


def _result(
    trial: Trial,
    predict: Predict,
    points: Sequence[Point] = (),
    scores: Mapping[str, GroupScores] | None = None,
) -> CellResult:
    if scores is None:
        scores = trial.score(predict, trial.groups.values())
    return CellResult(trial.roles, scores, points, trial.few_shot(predict), 0.0)


def _told_of_groups(result: CellResult, trial: Trial) -> CellResult:
    """Return a result with groups' scores, where clients are users."""
    reported = ReportedGroups.of(trial.roles, trial.config.data)
    return replace(
        result,
        roles=reported.roles,
        scores=reported.scores(result.scores),
        points=[replace(point, groups=reported.means(point.groups)) for point in result.points],
        few_shot={size: reported.means(scores) for size, scores in result.few_shot.items()},
    )


def _score_local(
    trial: Trial, predict: Predict, data: GroupData, draw: int
) -> dict[str, GroupScores]:
    """Score a group's own predictor: on all draws, or on the one it was trained on."""
    splits = evaluation_splits(data, trial.config.evaluation, trial.config.run.seed)
    chosen = splits if data.role == "train" else splits[draw : draw + 1]
    return {data.group: score_splits(predict, data, chosen, trial.seen_keys(data))}


def _merged(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Put the curves of many local predictors into one; a group's draws are averaged.

    Episodes and seconds are those of all predictors: one for each draw of a held-out group.
    """
    merged = []
    for points in zip(*curves, strict=True):
        of_group: dict[str, list[float]] = {}
        for point in points:
            for group, score in point.groups.items():
                of_group.setdefault(group, []).append(score)
        merged.append(
            replace(
                points[0],
                episodes=sum(point.episodes for point in points),
                seconds=sum(point.seconds for point in points),
                groups={group: sum(each) / len(each) for group, each in of_group.items()},
            )
        )
    return merged


def _answers_megabytes(train: Sequence[GroupData]) -> float:
    """Return what pooling sends once: a key for each question and a share for each option."""
    size = sum(data.question_keys.nbytes + data.answers.shares.nbytes for data in train)
    return size / 1e6


def _disclosed_megabytes(trial: Trial) -> float:
    """Return what it costs to collect the training groups' answers and to send all their sums."""
    if trial.prior is None:
        return 0.0
    sent = [PopulationAnswers.of(data) for data in trial.train]
    sent += [trial.prior.answers] * len(trial.groups)
    return sum(array.nbytes for each in sent for array in each.to_arrays().values()) / 1e6


def _cohort_size(trial: Trial) -> int:
    return min(trial.config.train.clients_per_round or len(trial.train), len(trial.train))
