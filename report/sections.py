"""Sections that every report has: settings, environment, words, citation."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from report.blocks import Block, Cell, Code, Column, Definitions, Folded, Section, Table, Text
from report.numbers import shown_setting
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
                    Cell(shown_setting(v)),
                    Cell(shown_setting(defaults.get(k, ""))),
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
