"""Writing a reward model's folder from a run directory."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from report.files import read_run
from report.model_card import model_card
from task.config import RunConfig
from task.encoder import TransformersEncoder
from task.errors import RewardError, RunDirectoryError, suggest
from task.evaluation import evaluation_splits
from task.features import load_group, load_roles, option_rows
from task.predicting import read_answers
from task.predictor import PreferencePredictor
from task.reward_files import ENCODER, read_roles, write_contexts, write_facts
from task.saved_predictor import encoder_of, load_predictor
from task.sources import load_survey
from task.survey import Answers, Survey, merged
from task.temperature import fit_temperature

CARD = "README.md"


def export_reward_model(
    run: Path,
    folder: Path,
    *,
    name: str,
    which: str = "best",
    groups: Sequence[str] = (),
    files: Sequence[Path] = (),
    num_context: int = 0,
    calibrate: bool = False,
    with_encoder: bool = False,
) -> None:
    """Write a run's predictor, groups, chosen contexts and model card into an empty folder.

    Args:
        run: the run directory.
        folder: an empty folder.
        name: what the model card calls it.
        which: `best` or `final` predictor.
        groups: groups of the run's survey whose context is written; `all`: every one that took
            part.
        files: files with contexts of other groups.
        num_context: questions of each context of `groups`; 0: the run's `evaluation.num-context`.
        calibrate: fit a temperature to the training groups' held-back questions.
        with_encoder: also copy the encoder's files.

    Raises:
        RunDirectoryError: this is no run directory, or it has no such predictor.
        RewardError: a group is unknown, or has fewer questions than `num_context`; the run's
            privacy does not allow calibration.
        SurveyError: a file cannot be read, or a group comes twice.
        EncoderError: the encoder is to be copied and is not here.
    """
    files_of_run = read_run(run)
    if not files_of_run.settings:  # the card could not say how the predictor came to be
        raise RunDirectoryError(
            f"{run} holds no config.toml: expected the directory that `pluralllm run` has written."
        )
    predictor = load_predictor(run, which)
    roles = read_roles(run)
    surveys = [read_answers(str(file)) for file in files]
    config = RunConfig.from_flat(files_of_run.settings)
    temperature = _fitted(predictor, config) if calibrate else 1.0
    if groups:
        surveys.append(_contexts_of_run(config, groups, num_context))
    survey = merged(surveys) if surveys else None
    if survey:
        write_contexts(survey, folder)
    write_facts(roles, temperature, folder)
    if with_encoder:
        _copy_encoder(predictor, folder / ENCODER)
    predictor.save_pretrained(folder)
    contexts = sorted(survey.answers) if survey else []
    card = model_card(
        files_of_run, name, contexts, which=which, encoder=predictor.encoder, prior=predictor.prior
    )
    (folder / CARD).write_text(card)


def _fitted(predictor: PreferencePredictor, config: RunConfig) -> float:
    """Return the temperature that fits the training groups' held-back questions."""
    if config.privacy.unit in ("client", "question"):
        raise RewardError(
            f"--calibrate: the run protects the unit {config.privacy.unit!r}, and a temperature is "
            "fitted to exact answers, which its epsilon does not cover. Leave it out."
        )
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = [load_group(config, group) for group, role in roles.items() if role == "train"]
    return fit_temperature(predictor, groups, config.evaluation, config.run.seed)


def _contexts_of_run(config: RunConfig, groups: Sequence[str], num_context: int) -> Survey:
    """Return the context of groups that took part in a run: a seeded draw of their questions."""
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    chosen = list(roles) if "all" in groups else list(dict.fromkeys(groups))
    for group in chosen:
        if group not in roles:
            raise RewardError(
                f"--context {group!r} took no part in the run.{suggest(group, roles)} Groups: "
                f"{', '.join(roles)}."
            )
    survey = load_survey(config)
    evaluation = replace(config.evaluation, num_draws=1)
    if num_context:
        evaluation = replace(evaluation, num_context=num_context)
    answers = {}
    for group in chosen:
        split = evaluation_splits(load_group(config, group), evaluation, config.run.seed)[0]
        if len(split.context) < evaluation.num_context:
            raise RewardError(
                f"--num-context {evaluation.num_context}: group {group!r} has {len(split.context)} "
                "questions to draw from. Ask for fewer."
            )
        answers[group] = _some(survey.answers[group], np.sort(split.context))
    return replace(survey, answers=answers, dropped={})


def _some(answers: Answers, positions: np.ndarray) -> Answers:
    """Return a group's answers to some of its questions, as shares."""
    rows = option_rows(answers.starts, answers.lengths, positions)
    return Answers(answers.questions[positions], answers.lengths[positions], answers.shares[rows])


def _copy_encoder(predictor: PreferencePredictor, folder: Path) -> None:
    config = encoder_of(predictor)
    if config.name == "hashing":
        raise RewardError(
            "--with-encoder: the predictor's encoder is 'hashing', which has no files."
        )
    shutil.copytree(TransformersEncoder(config).folder, folder, symlinks=False)
