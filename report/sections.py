"""Sections that every report has: privacy, settings, environment, words, citation."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from report.blocks import Block, Cell, Code, Column, Definitions, Folded, Section, Table, Text
from task.config import RunConfig, help_texts
from task.settings import Scalar

PAPER = "https://arxiv.org/abs/2503.09925"
WORDS = {
    "Alignment score (AS)": "1 minus the Jensen-Shannon distance (natural logarithm) between the "
    "predicted and the true distribution of a group's answers; from 0.167 to 1, higher is better. "
    "A group's score is the mean over its target questions.",
    "Held-out group": "A group that never trains: the predictor sees only its context questions.",
    "Training group": "A group that trains; it is scored on questions held back from training.",
    "Seen and new questions": "A seen question was asked of some (other) training group too, a new "
    "one of none.",
    "Worst group": "The lowest score of any group.",
    "CoV": "Coefficient of variation: standard deviation of the groups' scores over their mean.",
    "Fairness index (FI)": "1 / (1 + CoV²): 1 when all groups score the same.",
    "Top option": "Share of questions whose most chosen option is predicted to be that.",
    "Calibration error": "Mean distance between the predicted and the true share over bins of the "
    "predicted share. Uniform predictions have next to none by construction, so it tells "
    "something only beside the alignment score.",
    "Uniform": "Baseline that gives every option the same share.",
    "Population mean": "Baseline that gives the mean of the (other) training groups on the same "
    "question, uniform where none was asked. It reads the training groups' answers, so it exists "
    "in simulations only.",
}
BIBTEX = """\
@article{srewa2025pluralllm,
  title  = {PluralLLM: Pluralistic Alignment in LLMs via Federated Learning},
  author = {Srewa, Mahmoud and Zhao, Tianyu and Elmalaki, Salma},
  year   = {2025}, eprint = {2503.09925}, archivePrefix = {arXiv}
}
@article{zhao2023gpo,
  title  = {Group Preference Optimization: Few-Shot Alignment of Large Language Models},
  author = {Zhao, Siyan and Dang, John and Grover, Aditya},
  year   = {2023}, eprint = {2310.11523}, archivePrefix = {arXiv}
}"""
NO_PRIVACY = (
    "No formal (differential) privacy was applied: parameters and scores still tell something "
    "about the answers that they were computed from."
)
_ONCE = (
    "What left the clients of federated training: once, hashes of the questions' texts and sums of "
    "their features"
)
_EVERY_ROUND = "in every round, parameters, the training loss and sums of scores"
POPULATION = "predictor.population-weight"


def data_name(settings: Mapping[str, Scalar]) -> str:
    """Return what the survey is called in a title."""
    source = str(settings.get("data.source", ""))
    if source == "table":
        return Path(str(settings.get("data.path", ""))).stem or "a survey"
    known = {"global-opinions": "GlobalOpinionQA", "synthetic": "the synthetic survey"}
    return known.get(source, source or "a survey")


def strategy_name(settings: Mapping[str, Scalar]) -> str:
    """Return the aggregation rule as it is written in a text."""
    known = {"fedavg": "FedAvg", "fedprox": "FedProx", "fedmedian": "FedMedian"}
    name = str(settings.get("strategy.name", ""))
    return {**known, "qfedavg": "q-FedAvg"}.get(name, name)


def privacy_settings(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the settings that change what the server learns, when there are any."""
    return {
        key: value
        for key, value in settings.items()
        if key.startswith("privacy.") or (key in ("strategy.clipping-norm", POPULATION) and value)
    }


def what_left_clients(settings: Mapping[str, Scalar]) -> str:
    """Say what left the clients."""
    if settings.get(POPULATION):
        return (
            f"{_ONCE}, and the training groups' answers, as {POPULATION} asks for: the server adds "
            f"them up and sends the sums to all; {_EVERY_ROUND}. Held-out groups' answers never "
            "left a client."
        )
    return f"{_ONCE}; {_EVERY_ROUND}. Answers never left a client."


def privacy_sentence(settings: Mapping[str, Scalar]) -> str:
    """Say whether formal privacy applied."""
    if any(key.startswith("privacy.") for key in privacy_settings(settings)):
        return (
            "Settings under privacy.* were given; this report derives no formal guarantee "
            "(epsilon) from them."
        )
    return NO_PRIVACY


def privacy_section(settings: Mapping[str, Scalar]) -> Section | None:
    """Return the privacy section of a run that has such settings."""
    found = privacy_settings(settings)
    if not found:
        return None
    helps = help_texts()
    rows = [
        [Cell(key), Cell(_shown(value)), Cell(helps.get(key, ""))] for key, value in found.items()
    ]
    table = Table("Settings that change what the server learns", _SETTING_COLUMNS, rows)
    blocks: list[Block] = [
        Text(what_left_clients(settings)),
        Text(privacy_sentence(settings)),
        table,
    ]
    return Section("privacy", "Privacy", blocks)


def compression_sentence(settings: Mapping[str, Scalar]) -> str:
    """Say how updates were compressed."""
    name = str(settings.get("compression.name", "none"))
    if name == "none":
        return "Updates were sent uncompressed (compression.name = none)."
    text = f"Clients compressed their updates with {name}"
    if name == "top-k":
        text += f", keeping a share of {settings.get('compression.top-k-fraction')} of the entries"
    return text + "."


def settings_section(
    settings: Mapping[str, Scalar], environment: Mapping[str, Any], command: str
) -> Section:
    """Return settings (those that differ from the defaults first), environment and command."""
    blocks: list[Block] = []
    if command:
        blocks.append(Code("Command that repeats this", command))
    if settings:
        defaults, helps = RunConfig().to_flat(), help_texts()
        changed = {k: v for k, v in settings.items() if k not in defaults or v != defaults[k]}
        same = {k: v for k, v in settings.items() if k not in changed}
        for name, chosen in (
            ("that differ from their default", changed),
            ("left at their default", same),
        ):
            rows = [
                [
                    Cell(k),
                    Cell(_shown(v)),
                    Cell(_shown(defaults.get(k, ""))),
                    Cell(helps.get(k, "")),
                ]
                for k, v in chosen.items()
            ]
            columns = [*_SETTING_COLUMNS[:2], Column("Default", numeric=False), _SETTING_COLUMNS[2]]
            table = Table(f"Settings {name}", columns, rows)
            blocks.append(Folded(f"Settings {name} ({len(rows)})", [table]))
    if environment:
        rows = [[Cell(name), Cell(value)] for name, value in _flat_environment(environment)]
        columns = [Column("What", numeric=False), Column("Value", numeric=False)]
        blocks.append(Folded("Environment", [Table("Environment", columns, rows)]))
    return Section("settings", "Settings and environment", blocks or [Text("None recorded.")])


def closing_sections() -> Sequence[Section]:
    """Return the words used, and how to cite."""
    try:
        version = f" {metadata.version('pluralllm')}"
    except metadata.PackageNotFoundError:
        version = ""
    cite: list[Block] = [
        Text(
            f"Made with pluralllm{version}, which builds the system of PluralLLM (arXiv "
            "2503.09925) around the predictor of GPO (arXiv 2310.11523). Please cite both papers, "
            "and the software with its version."
        ),
        Code("BibTeX", BIBTEX),
        Text(
            "pluralllm is under the Apache License 2.0. Survey data keep their own licence: "
            "GlobalOpinionQA is CC BY-NC-SA 4.0."
        ),
    ]
    return [
        Section("words", "Words and measures", [Definitions(WORDS)]),
        Section("cite", "How to cite, licence", cite),
    ]


_SETTING_COLUMNS = [
    Column("Key", numeric=False),
    Column("Value", numeric=False),
    Column("Meaning", numeric=False),
]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else "(empty)"


def _flat_environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            rows.extend((str(key), str(inner)) for key, inner in value.items())
        elif isinstance(value, list):
            rows.append((name, ", ".join(map(str, value)) or "none"))
        else:
            rows.append((name, str(value)))
    return rows
