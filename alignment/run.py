"""`pluralllm align`: a base model is aligned to each target in turn, and evaluated."""

import gc
import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from alignment.config import AlignConfig
from alignment.evaluation import Answering, best_of_n
from alignment.extra import require_trl
from alignment.figures import Setting, figures, references
from alignment.grpo import train_grpo
from alignment.policy import Policy, load_policy, make_policy, require_room
from alignment.prompts import answers_of, prompt_of
from alignment.questions import QuestionSplit, answering
from alignment.reward_model import load_rewards
from alignment.survey_reward import SurveyReward
from alignment.targets import Target, parse_targets
from alignment.warm_up import exercise_scores, warm_up
from task.config import RunConfig, RunSettings, split_names
from task.errors import RunDirectoryError, SurveyError
from task.files import write_whole
from task.reward_aggregation import AdaptiveAlpha
from task.seeding import generator
from task.sources import load_survey

METRICS = "metrics.json"


def run_alignment(config: AlignConfig, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Align to every target; return what is written to `metrics.json`.

    Args:
        config: the settings.
        tell: is given a line now and then.

    Raises:
        UserError: settings, survey, reward model or policy do not fit; before any training.
    """
    if config.align.method == "grpo":
        require_trl()
    folder = _new_folder(config)
    data = RunConfig(data=config.data, run=RunSettings(seed=config.questions.survey_seed))
    survey = load_survey(data)
    split = QuestionSplit.of(survey, config.questions, config.align.seed)
    model, judge, groups = load_rewards(config, survey, split)
    truth = dict(answering(survey, groups, split.held_out))
    unanswered = [group for group in groups if group not in truth]
    if unanswered and (split_names(config.reward.groups) or not truth):
        raise SurveyError(
            f"Group {unanswered[0]!r} answers none of the {len(split.held_out)} held-out "
            "questions: it cannot be evaluated. Leave it out of reward.groups, or hold out more."
        )
    groups = tuple(truth)
    targets = parse_targets(config.align.targets, groups)
    tell(
        f"{len(split.train)} training questions, {len(split.held_out)} held out, "
        f"{len(groups)} groups; {len(targets)} targets in {folder}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in config.to_flat().items())
    write_whole(folder / "config.toml", "".join(lines).encode())  # JSON's scalars are TOML's
    policy, source, seconds = _base_policy(config, split, folder)
    tell(f"base model: {policy.model.num_parameters():,} parameters ({seconds:.0f} s)")
    exercises = None
    if not config.policy.path:
        exercises = exercise_scores(policy, split.held_out, config.align.seed, config.policy.batch)
        tell(
            "  tells options apart: answers of a made-up person {base:.4f} (uniform answers: "
            "{uniform:.4f})".format(**exercises)
        )
    setting = Setting(
        config=config,
        folder=folder,
        source=source,
        split=split,
        model=model,
        judge=judge,
        truth=truth,
        train_truth=dict(answering(survey, groups, split.train)),
        base=Answering.of(policy, split.held_out, config.policy.batch),
    )
    metrics = references(setting, policy, groups)
    metrics |= {"warm_up_seconds": seconds, "exercises": exercises, "targets": {}}
    del policy
    for target in targets:
        tell(f"{target.name}:")
        entry = _align(setting, target, tell)
        metrics["targets"][target.name] = entry
        before, after = metrics["base"]["mean"], entry["alignment"]["mean"]
        tell(f"  mean alignment score {before:.4f} -> {after:.4f}")
        write_whole(folder / METRICS, (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


def _new_folder(config: AlignConfig) -> Path:
    chosen = config.align.directory or f"alignments/{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(chosen).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunDirectoryError(f"align.directory = {chosen!r} is not empty: choose another one.")
    return folder


def _base_policy(
    config: AlignConfig, split: QuestionSplit, folder: Path
) -> tuple[Policy, str, float]:
    """Return the base model, where it can be loaded from again, and the seconds it took."""
    started = time.perf_counter()
    if config.policy.path:
        source = config.policy.path
        policy = load_policy(source, config.policy)
        require_room(policy, [*split.train, *split.held_out])
    else:
        source = str(folder / "base")
        policy = make_policy(config.policy, split.train, config.align.seed)
        require_room(policy, [*split.train, *split.held_out])
        warm_up(policy, split.train, config.policy, config.align.seed)
        policy.model.to(getattr(torch, config.policy.dtype))
        policy.model.save_pretrained(source)
        policy.tokenizer.save_pretrained(source)
    return policy, source, time.perf_counter() - started


def _align(setting: Setting, target: Target, tell: Callable[[str], None]) -> dict[str, Any]:
    """Align to one target, save the result, and return its figures."""
    config = setting.config
    reward = target.reward(setting.model, config.reward)
    reward.prepare(setting.split.train)
    entry: dict[str, Any] = {"groups": list(target.groups), "rule": target.rule}
    policy = load_policy(setting.source, config.policy)
    batch = config.policy.batch
    if config.align.method == "grpo":
        folder = setting.folder / target.folder
        policy, training = train_grpo(
            policy,
            setting.split.train,
            reward,
            config.train,
            seed=config.align.seed,
            directory=folder,
            tell=tell,
        )
        policy.model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
        entry |= {"folder": target.folder, "training": training.to_json()}
        answers = Answering.of(policy, setting.split.held_out, batch)
        on_train = Answering.of(policy, setting.split.train, batch)
    else:
        on_train = Answering.of(policy, setting.split.train, batch)
        if isinstance(reward.aggregation, AdaptiveAlpha):
            _settle(reward, setting, on_train)
        reward.prepare(setting.split.held_out)
        answers, on_train = (
            best_of_n(
                given,
                [reward.of_options(question) for question in questions],
                config.reward.floor,
                config.align.best_of,
            )
            for given, questions in (
                (setting.base, setting.split.held_out),
                (on_train, setting.split.train),
            )
        )
    del policy
    gc.collect()
    return entry | figures(setting, target, reward, answers, on_train)


def _settle(reward: SurveyReward, setting: Setting, base: Answering) -> None:
    """Let a rule that remembers see the base model's answers to the training questions."""
    config = setting.config
    random = generator(config.align.seed, "best of n")
    for start in range(0, len(setting.split.train), config.train.prompts):
        asked = setting.split.train[start : start + config.train.prompts]
        rows = [
            (question, str(answer))
            for question, p_O in zip(asked, base.shares[start:], strict=False)
            for answer in random.choice(answers_of(question), config.align.best_of, p=p_O)
        ]
        reward(
            [prompt_of(question) for question, _ in rows],
            [answer for _, answer in rows],
            question=[question.text for question, _ in rows],
            options=[list(question.options) for question, _ in rows],
        )
