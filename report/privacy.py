"""What a run promises about privacy, and what left the clients."""

import math
from collections.abc import Mapping
from typing import Any

from report.blocks import Block, Cell, Column, Definitions, Notice, Section, Table, Text
from report.files import RunFiles
from report.numbers import shown_setting
from report.privacy_figures import epsilon_figure
from task.config import RunConfig, help_texts
from task.settings import Scalar

NO_PRIVACY = (
    "No formal (differential) privacy was applied: parameters and scores still tell something "
    "about the answers that they were computed from."
)
EXACT = (
    "This page shows exact scores of groups, and true answers where it has them. The epsilon does "
    "not cover those: keep the page where the answers may be (privacy.metrics = full)."
)
POPULATION = "predictor.population-weight"
UNITS = {
    "client": "one client: all that a group sends in training",
    "question": "one question: all answers of a group to it",
    "member": "one member: a respondent of a group, with all answers given there",
}
_ALWAYS = ("unit", "noise-multiplier", "delta", "max-epsilon", "accountant", "secure-noise")
_OF_UNIT = {
    "client": (
        *("metrics", "secure-aggregation", "strategy.clipping-norm"),
        *("train.sampling", "train.clients-per-round", "train.num-rounds"),
    ),
    "question": (
        *("metrics", "gradient-clipping-norm", "questions-per-episode", "sample-rate"),
        *("train.num-rounds", "train.local-steps"),
    ),
    "member": ("histogram-noise", "respondents", "questions-per-respondent"),
}
_ONCE = (
    "What left the clients of federated training: once, hashes of the questions' texts and sums of "
    "their features"
)


def unit_of(settings: Mapping[str, Scalar]) -> str:
    """Return what differential privacy protects, or `none`."""
    return str(settings.get("privacy.unit", "none"))


def disclosure_of(settings: Mapping[str, Scalar]) -> str:
    """Return whether groups' scores are `full`, `noisy` or `off`."""
    return str(settings.get("privacy.metrics", "full"))


def guarantee_of(run: RunFiles) -> dict[str, Any]:
    """Return the guarantee that a run has recorded last; empty: none."""
    lines = [entry["privacy"] for entry in run.rounds if entry.get("privacy")]
    return run.summary.get("privacy") or (lines[-1] if lines else {})


def shown_epsilon(epsilon: float | None) -> str:
    """Return an epsilon as `pluralllm run` prints it; None is infinite."""
    return "\N{INFINITY}" if epsilon is None or math.isinf(epsilon) else f"{epsilon:.4g}"


def privacy_settings(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the settings that change what others learn: not the defaults, and those of the unit.

    Empty where there is nothing to tell.
    """
    defaults = RunConfig().to_flat()
    unit = unit_of(settings)
    names = (*_ALWAYS, *_OF_UNIT[unit]) if unit in _OF_UNIT else ()
    if disclosure_of(settings) == "noisy":
        names += ("metrics-noise-multiplier",)
    wanted = [name if "." in name else f"privacy.{name}" for name in names]
    wanted += [
        key
        for key, value in settings.items()
        if key.startswith(("privacy.", "strategy.clipping-norm", POPULATION))
        and value != defaults.get(key)
    ]
    return {key: settings[key] for key in dict.fromkeys(wanted) if key in settings}


def what_left_clients(settings: Mapping[str, Scalar]) -> str:
    """Say what left the clients."""
    text = f"{_ONCE}; {_every_round(settings)}. Answers never left a client."
    if settings.get(POPULATION):
        text = (
            f"{_ONCE}, and the training groups' answers, as {POPULATION} asks for: the server adds "
            f"them up and sends the sums to all; {_every_round(settings)}. Held-out groups' "
            "answers never left a client."
        )
    if unit_of(settings) == "member":
        text += " All of it was computed from answer histograms with noise."
    return text


def _every_round(settings: Mapping[str, Scalar]) -> str:
    """Say what a client sends in a round."""
    unit, disclosure = unit_of(settings), disclosure_of(settings)
    local = unit == "question"  # noise is added where the answers are
    what = ["parameters"]
    if settings.get("privacy.secure-aggregation"):
        what = ["masked parameters, of which the server learns the sum"]
    elif local:
        what = ["parameters trained with noise (DP-SGD)"]
    if (not local or disclosure == "full") and not settings.get("privacy.secure-aggregation"):
        what.append("the training loss")
    if disclosure != "off":
        what.append("a score with noise" if local and disclosure == "noisy" else "sums of scores")
    text = f"in every round, {', '.join(what[:-1])} and {what[-1]}" if what[1:] else ""
    text = text or f"in every round, {what[0]}"
    if unit == "client" and not settings.get("privacy.secure-aggregation"):
        text += ", all without noise: the server is trusted to add it to their mean"
    return text


def privacy_sentence(settings: Mapping[str, Scalar]) -> str:
    """Say whether formal privacy applied."""
    if unit_of(settings) in UNITS:
        return "What differential privacy covers of it is said under Privacy."
    defaults = RunConfig().to_flat()
    if any(key.startswith("privacy.") and key not in defaults for key in settings):
        return (
            "Settings under privacy.* were given that this version does not know; it derives no "
            "formal guarantee (epsilon) from them."
        )
    return NO_PRIVACY


def guarantee_blocks(guarantee: Mapping[str, Any]) -> list[Block]:
    """Return a guarantee with all that it needs to mean something."""
    epsilon, unit = guarantee.get("epsilon"), str(guarantee.get("unit", ""))
    text = f"Epsilon = {shown_epsilon(epsilon)} at delta = {guarantee.get('delta', 0):.3g}"
    entries = {
        "Unit": UNITS.get(unit, unit),
        "Neighbours": f"{guarantee.get('relation', '')}",
        "Sampling": f"{guarantee.get('sampling', '')}",
        "Accountant": f"{guarantee.get('accountant', '')}",
    }
    blocks: list[Block] = [Text(f"{text}, for one {unit}.")]
    if epsilon is None:
        blocks = [
            Notice(
                f"{text}, for one {unit}: there was no noise (privacy.noise-multiplier = 0), so "
                "there is no guarantee."
            )
        ]
    blocks.append(Definitions(entries))
    if excludes := guarantee.get("excludes"):
        blocks.append(Notice("The epsilon does not cover:", [str(each) for each in excludes]))
    return blocks


def exact_notice(settings: Mapping[str, Scalar]) -> Notice | None:
    """Return the warning of a page that shows what its epsilon does not cover."""
    exact = unit_of(settings) in ("client", "question") and disclosure_of(settings) == "full"
    return Notice(EXACT) if exact else None


def settings_table(settings: Mapping[str, Scalar]) -> Table:
    """Return the privacy settings and what they mean."""
    helps = help_texts()
    return Table(
        "Settings that change what others learn",
        [Column(heading, numeric=False) for heading in ("Key", "Value", "Meaning")],
        [
            [Cell(key), Cell(shown_setting(value)), Cell(helps.get(key, ""))]
            for key, value in privacy_settings(settings).items()
        ],
    )


def privacy_section(settings: Mapping[str, Scalar], run: RunFiles | None = None) -> Section | None:
    """Return the privacy section of a run that has such settings.

    Args:
        settings: the run's, with dotted keys.
        run: its files; None where the guarantee is told elsewhere.
    """
    if not privacy_settings(settings):
        return None
    blocks: list[Block] = []
    if unit_of(settings) in UNITS and run:
        guarantee = guarantee_of(run)
        blocks += guarantee_blocks(guarantee) if guarantee else [Text(_NO_GUARANTEE)]
        if notice := exact_notice(settings):
            blocks.insert(0, notice)
        if not run.summary:
            blocks.append(Text(_UNFINISHED))
        if figure := epsilon_figure(run):
            blocks.append(figure)
        elif unit_of(settings) == "member" and guarantee:
            blocks.append(Text(_MEMBER))
    elif unit_of(settings) not in UNITS:
        blocks.append(Text(privacy_sentence(settings)))
    blocks += [Text(what_left_clients(settings)), settings_table(settings)]
    return Section("privacy", "Privacy", blocks)


_NO_GUARANTEE = "The run has recorded no guarantee (epsilon) yet."
_UNFINISHED = (
    "The run has not finished. It pays for a release before it makes it, so it may have spent more "
    "than this: its ledger knows."
)
_MEMBER = (
    "Noise was added once, to the answer histograms, before anything was computed: rounds and "
    "scores cost nothing more. Scores are against the noisy answers."
)
