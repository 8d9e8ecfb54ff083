"""The model card of an exported reward model: what it is, whom it heard, and what it promises."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from report.files import RunFiles
from report.numbers import counted, shown_setting
from report.privacy import (
    POPULATION,
    disclosure_of,
    guarantee_of,
    privacy_sentence,
    shown_epsilon,
    unit_of,
    what_left_clients,
)
from report.sections import data_name
from task.population import PopulationPrior

FRONT_MATTER = """\
---
library_name: pluralllm
tags:
- reward-model
- pluralistic-alignment
- federated-learning
---
"""
USE = """\
## Use

```python
from task.reward import RewardModel

reward = RewardModel.load("{folder}")
reward.score(prompts, responses, {whose}, against=references)  # log-odds, (batch,)
reward.distribution(question, options, {whose})
```

A score is the log-odds that the group prefers the response to the reference, or to all the other
options. Without `against` only differences between responses to one prompt mean something. With
TRL: `docs/reward.md` of pluralllm.
"""
ROLES = (("held_out", "held-out groups"), ("train", "training groups"))
FAIRNESS = (
    ("alignment_score", "AS"),
    ("alignment_score_seen_questions", "AS seen questions"),
    ("alignment_score_new_questions", "AS new questions"),
    ("worst_group", "worst group"),
    ("cov", "CoV"),
    ("fairness_index", "FI"),
    ("calibration_error", "calibration error"),
)


def model_card(
    run: RunFiles,
    name: str,
    contexts: Sequence[str],
    *,
    which: str,
    encoder: Mapping[str, Any],
    prior: PopulationPrior | None,
) -> str:
    """Return the card as Markdown.

    Args:
        run: the files of the run that trained the predictor.
        name: what the model is called.
        contexts: groups whose answered questions lie in the folder.
        which: `best` or `final` predictor; scores are those of its round.
        encoder: the predictor's encoder settings.
        prior: the population's answers inside the predictor, if any.
    """
    whose = "context=answered_questions"
    if contexts:
        whose = f"group={json.dumps(contexts[0], ensure_ascii=False)}"
    scores = _scores_of(run, which)
    parts = [
        FRONT_MATTER,
        f"# {name}\n",
        "A preference predictor (GPO, arXiv 2310.11523) trained by federated learning across user "
        "groups (PluralLLM, arXiv 2503.09925), as a reward model: from a few answered questions of "
        "a group it predicts what the group's people prefer.\n",
        USE.format(folder=name, whose=whose),
        _training(run, which, encoder),
        _groups(run, scores),
        _fairness(run, scores),
        _privacy(run, contexts, prior),
        LIMITS,
    ]
    return "\n".join(part for part in parts if part)


def _scores_of(run: RunFiles, which: str) -> Mapping[str, Any]:
    """Return the line of `metrics.jsonl` on the round of the predictor; empty: there is none."""
    wanted = run.summary.get("best_round" if which == "best" else "round")
    return next((entry for entry in run.rounds if entry["round"] == wanted), {})


def _training(run: RunFiles, which: str, encoder: Mapping[str, Any]) -> str:
    told = ("data.source", "strategy.name", "train.num-rounds", "train.local-steps", "run.seed")
    lines = [f"- {key}: {shown_setting(run.settings[key])}" for key in told if key in run.settings]
    lines.append(f"- encoder: {encoder.get('name')} ({encoder.get('fingerprint')})")
    last = run.summary.get("best_round" if which == "best" else "round")
    lines.append(f"- predictor: {which}, " + ("round unknown" if last is None else f"round {last}"))
    packages = run.environment.get("packages", {})
    if packages:
        lines.append("- " + ", ".join(f"{name} {version}" for name, version in packages.items()))
    return f"## Training\n\nData: {data_name(run.settings)}.\n\n" + "\n".join(lines) + "\n"


def _groups(run: RunFiles, scores: Mapping[str, Any]) -> str:
    """Name the groups, with their scores where the run may disclose them."""
    if not run.groups:
        why = "disclosed no scores of groups" if run.summary else "has not finished"
        return f"## Groups\n\nThe run {why}.\n"
    lines = ["| group | role | AS |", "| --- | --- | --- |"]
    for group, entry in sorted(
        run.groups.items(), key=lambda each: (str(each[1]["role"]), each[0])
    ):
        score = scores.get("groups", {}).get(group)
        lines.append(f"| {_cell(group)} | {entry['role']} | {_number(score)} |")
    return (
        "## Groups\n\n"
        "AS is the alignment score, 1 - Jensen-Shannon distance to the true answer distribution "
        "(natural logarithm). Held-out groups never trained; training groups' scores are on "
        "questions held back.\n\n" + "\n".join(lines) + "\n"
    )


def _fairness(run: RunFiles, scores: Mapping[str, Any]) -> str:
    rows = []
    for role, label in ROLES:
        methods = {**(run.summary.get(role) or {}), "model": scores.get(role)}
        for method in sorted(methods, key=lambda each: each != "model"):
            if entry := methods[method]:
                cells = " | ".join(_number(entry.get(key)) for key, _ in FAIRNESS)
                rows.append(f"| {label}, {method.replace('_', ' ')} | {cells} |")
    if not rows:
        return ""
    head = "| | " + " | ".join(heading for _, heading in FAIRNESS) + " |"
    rule = "| --- |" + " --- |" * len(FAIRNESS)
    means = "Macro means over groups, beside trivial baselines."
    if disclosure_of(run.settings) == "noisy":
        means = "Mean over groups, with noise added to it: it can lie far from the true mean."
    return (
        f"## Fairness and metrics\n\n{means} CoV is the standard deviation over the mean of the "
        "groups' AS, FI = 1 / (1 + CoV^2).\n\n" + "\n".join([head, rule, *rows]) + "\n"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cell(text: str) -> str:
    """Return a text that cannot break out of its table."""
    return " ".join(text.split()).replace("|", "\\|")


def _privacy(run: RunFiles, contexts: Sequence[str], prior: PopulationPrior | None) -> str:
    lines = ["## Privacy\n", what_left_clients(run.settings), ""]
    if guarantee := guarantee_of(run):
        lines.append(
            f"Differential privacy: epsilon = {shown_epsilon(guarantee.get('epsilon'))} at delta = "
            f"{guarantee.get('delta', 0):.3g} for one {guarantee.get('unit')} "
            f"({guarantee.get('relation', '')}; {guarantee.get('accountant', '')})."
        )
        lines += [f"- It does not cover: {each}" for each in guarantee.get("excludes") or []]
    elif unit_of(run.settings) == "none":
        lines.append(privacy_sentence(run.settings))
    if contexts:
        covered = ", and no epsilon covers them" if guarantee else ""
        if guarantee and unit_of(run.settings) == "member":
            covered = ", and the epsilon covers only those drawn from the run's own survey"
        names = ", ".join(map(_cell, contexts))
        lines.append(
            f"\n**This folder holds answers.** `contexts.jsonl` has the answered questions of "
            f"{counted(len(contexts), 'group')} ({names}), so that the reward model can be used "
            f"for them: whoever gets the folder can read them{covered}."
        )
    else:
        lines.append(
            f"\nThis folder holds no group's {'context' if prior else 'answers'}: give a group's "
            "answered questions as `context`."
        )
    if prior:
        lines.append(
            "\n**The predictor holds sums of answers.** `model.safetensors` has the sums of the "
            f"training groups' answers to {counted(len(prior.answers.keys), 'question')} "
            f"({POPULATION}): whoever gets the folder can read them. Where one group alone was "
            "asked a question, its sum is that group's answer."
        )
    return "\n".join(lines) + "\n"


LIMITS = """\
## Limits

It predicts what people of a group answer on average. It knows nothing of an individual, follows the
survey that it was trained on, and has seen neither long responses nor dialogue unless these were in
its training data. Optimising a language model hard against any reward model finds its errors: keep
a KL penalty, and judge by a held-out reward.
"""
