"""The model card of an exported reward model: what it is, whom it heard, and what it promises."""

from collections.abc import Sequence
from typing import Any

from report.files import RunFiles
from report.numbers import counted, shown_setting
from report.privacy import (
    guarantee_of,
    privacy_sentence,
    shown_epsilon,
    unit_of,
    what_left_clients,
)
from report.sections import data_name

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


def model_card(run: RunFiles, name: str, contexts: Sequence[str], encoder: dict[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        run: the files of the run that trained the predictor.
        name: what the model is called.
        contexts: groups whose answered questions lie in the folder.
        encoder: the predictor's encoder settings.
    """
    whose = f'group="{contexts[0]}"' if contexts else "context=answered_questions"
    parts = [
        FRONT_MATTER,
        f"# {name}\n",
        "A preference predictor (GPO, arXiv 2310.11523) trained by federated learning across user "
        "groups (PluralLLM, arXiv 2503.09925), as a reward model: from a few answered questions of "
        "a group it predicts what the group's people prefer.\n",
        USE.format(folder=name, whose=whose),
        _training(run, encoder),
        _groups(run),
        _fairness(run),
        _privacy(run, contexts),
        LIMITS,
    ]
    return "\n".join(part for part in parts if part)


def _training(run: RunFiles, encoder: dict[str, Any]) -> str:
    told = ("data.source", "strategy.name", "train.num-rounds", "train.local-steps", "run.seed")
    lines = [f"- {key}: {shown_setting(run.settings[key])}" for key in told if key in run.settings]
    lines.append(f"- encoder: {encoder.get('name')} ({encoder.get('fingerprint')})")
    packages = run.environment.get("packages", {})
    if packages:
        lines.append("- " + ", ".join(f"{name} {version}" for name, version in packages.items()))
    return f"## Training\n\nData: {data_name(run.settings)}.\n\n" + "\n".join(lines) + "\n"


def _groups(run: RunFiles) -> str:
    """Name the groups, with their scores where the run may disclose them."""
    if not run.groups:
        return "## Groups\n\nThe run disclosed no scores of groups.\n"
    lines = ["| group | role | AS |", "| --- | --- | --- |"]
    for group, entry in sorted(
        run.groups.items(), key=lambda each: (str(each[1]["role"]), each[0])
    ):
        score = entry.get("alignment_score")
        shown = "-" if score is None else f"{score:.4f}"
        lines.append(f"| {group} | {entry['role']} | {shown} |")
    return (
        "## Groups\n\n"
        "AS is the alignment score, 1 - Jensen-Shannon distance to the true answer distribution "
        "(natural logarithm). Held-out groups never trained; training groups' scores are on "
        "questions held back.\n\n" + "\n".join(lines) + "\n"
    )


def _fairness(run: RunFiles) -> str:
    rows = []
    for role, label in ROLES:
        for method, entry in (run.summary.get(role) or {}).items():
            if not isinstance(entry, dict):
                continue
            cells = [entry.get(key) for key, _ in FAIRNESS]
            shown = " | ".join("-" if cell is None else f"{cell:.4f}" for cell in cells)
            rows.append(f"| {label}, {method.replace('_', ' ')} | {shown} |")
    if not rows:
        return ""
    head = "| | " + " | ".join(heading for _, heading in FAIRNESS) + " |"
    rule = "| --- |" + " --- |" * len(FAIRNESS)
    return (
        "## Fairness and metrics\n\n"
        "Macro means over groups, beside trivial baselines. CoV is the standard deviation over "
        "the mean of the groups' AS, FI = 1 / (1 + CoV^2).\n\n"
        + "\n".join([head, rule, *rows])
        + "\n"
    )


def _privacy(run: RunFiles, contexts: Sequence[str]) -> str:
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
        lines.append(
            f"\n**This folder holds answers.** `contexts.jsonl` has the answered questions of "
            f"{counted(len(contexts), 'group')} ({', '.join(contexts)}), so that the reward model "
            "can be used for them: whoever gets the folder can read them"
            + ("." if not guarantee else ", and no epsilon covers them.")
        )
    else:
        lines.append(
            "\nThis folder holds no group's answers: give a group's answered questions as "
            "`context`."
        )
    return "\n".join(lines) + "\n"


LIMITS = """\
## Limits

It predicts what people of a group answer on average. It knows nothing of an individual, follows the
survey that it was trained on, and has seen neither long responses nor dialogue unless these were in
its training data. Optimising a language model hard against any reward model finds its errors: keep
a KL penalty, and judge by a held-out reward.
"""
