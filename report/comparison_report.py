"""The report of a comparison: methods side by side, and verdicts on the paper's claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report.blocks import Block, Claim, Claims, KeyFigure, Notice, Report, Section, Text
from report.comparison_details import differences_figure, few_shot_figure, reliability_figure
from report.comparison_figures import curves_figure, group_curves_figure, groups_figure
from report.comparison_privacy import comparison_privacy
from report.comparison_tables import (
    cost_table,
    paired_table,
    reads_table,
    role_table,
    versus_first_tables,
)
from report.files import RunFiles, read_run
from report.methods import Methods
from report.numbers import counted, digits_for, interval, number, spelled
from report.privacy import exact_notice, privacy_sentence, what_left_clients
from report.questions import question_section
from report.run_figures import communication_figure
from report.sections import (
    closing_sections,
    compression_sentence,
    data_name,
    settings_section,
)

Results = Mapping[str, Any]


def comparison_report(directory: Path, results: Results, federated: Path | None) -> Report:
    """Return the report of a comparison.

    Args:
        directory: the comparison's directory.
        results: content of its `results.json`.
        federated: run directory of a finished federated cell, if there is one.
    """
    methods = Methods.of(results)
    run = read_run(federated) if federated else None
    settings = results.get("settings") or {}
    sections = [
        Section("claims", "The paper's claims", _claims(results)),
        Section("results", "Results", _results(results, methods)),
        Section("curves", "Learning curves", _present(_curves(results, methods))),
        Section("groups", "Groups", _present([groups_figure(results, methods)])),
        Section("differences", "Paired differences", _differences(results, methods)),
        Section("few-shot", "Few-shot behaviour", _few_shot(results, methods)),
        Section("calibration", "Calibration", _present([reliability_figure(results, methods)])),
    ]
    if run:
        scores = {group: entry["alignment_score"] for group, entry in run.groups.items()}
        sections.append(question_section(run.path, run.settings, scores))
    sections.append(Section("communication", "Communication", _communication(settings, run)))
    if privacy := comparison_privacy(results, methods):
        sections.append(privacy)
    environment = results.get("environment") or {}
    sections.append(settings_section(settings, environment, str(results.get("command") or "")))
    sections.extend(closing_sections())
    missing = results.get("missing_cells") or []
    notices = []
    if missing:
        notices.append(
            Notice(f"Incomplete: {counted(len(missing), 'cell')} without a result.", missing)
        )
    if exact := exact_notice(settings):
        notices.append(exact)
    return Report(
        subject=f"Comparison {directory.resolve().name}",
        title=f"{len(methods.names)} methods compared on {data_name(settings)}",
        summary=_summary(results, methods),
        key_figures=_key_figures(results, methods),
        notices=notices,
        sections=[section for section in sections if section.blocks],
    )


def _present(blocks: Sequence[Block | None]) -> list[Block]:
    return [block for block in blocks if block is not None]


def _role(methods: Methods) -> str:
    """Return the role that the headline is about."""
    return "held_out" if methods.scored("held_out") else "train"


def _summary(results: Results, methods: Methods) -> str:
    role = _role(methods)
    scored = methods.scored(role)
    if not scored:
        return "No cell of this comparison has finished yet, so there are no scores to show."
    groups = "held-out" if role == "held_out" else "training"
    score = {name: methods.score(name, role) or {} for name in scored}
    order = sorted(scored, key=lambda name: -score[name]["mean"])
    first = order[0]
    text = (
        f"On {groups} groups, {methods.label(first)} has the highest mean alignment score: "
        f"{spelled(score[first])}"
    )
    federated = next((n for n in order if methods.kind(n) == "federated"), None)
    if federated and federated != first:
        text += (
            f". {methods.label(federated)} reaches {spelled(score[federated])}, "
            f"rank {order.index(federated) + 1} of {len(order)}"
        )
    elif len(order) > 1:
        text += f". {methods.label(order[1])} follows with {spelled(score[order[1]])}"
    return f"{text}. {_scope(results)}"


def _scope(results: Results) -> str:
    """Say over what the figures are means."""
    counts = results.get("num_groups") or {}
    seeds, folds = results.get("seeds") or [], results.get("folds") or 0
    parts = [counted(len(seeds), "seed")]
    if folds:
        parts.append(f"{folds} folds of groups")
    text = f"Figures are means over {' and '.join(parts)}"
    if counts:
        text += (
            f", with {counts.get('train')} training and {counts.get('held_out')} held-out groups"
        )
    return text + ("; brackets are 95 % intervals." if len(seeds) > 1 else ".")


def _key_figures(results: Results, methods: Methods) -> list[KeyFigure]:
    role = _role(methods)
    shown = methods.headline(role)
    figures = []
    for name in shown:
        entry = methods.score(name, role) or {}
        detail = interval(entry.get("low"), entry.get("high"))
        figures.append(KeyFigure(methods.label(name), number(entry["mean"]), detail))
    return figures


def _claims(results: Results) -> list[Block]:
    claims = []
    for entry in results.get("claims") or []:
        measured = entry.get("measured")
        facts = {
            "Paper": str(entry.get("paper", "")),
            "Measured": _measured(measured, str(entry.get("unit") or "")),
            "Versus": str(entry.get("versus", "")),
        }
        claims.append(
            Claim(
                claim=str(entry["claim"]),
                verdict=str(entry.get("verdict", "")),
                facts={name: value for name, value in facts.items() if value},
                explanation=str(entry.get("explanation", "")),
            )
        )
    return [Claims(claims)] if claims else []


def _measured(entry: Mapping[str, Any] | None, unit: str) -> str:
    if entry is None or entry.get("mean") is None:
        return "not measured"
    return f"{spelled(entry, digits_for(entry))} {unit}".strip()


def _results(results: Results, methods: Methods) -> list[Block]:
    blocks: list[Block] = []
    for role in ("held_out", "train"):
        if methods.scored(role):
            blocks.append(role_table(results, methods, role))
    if methods.names and (costs := cost_table(results, methods)):
        blocks.append(costs)
    blocks.append(reads_table(methods))
    return blocks


def _curves(results: Results, methods: Methods) -> list[Block | None]:
    return [curves_figure(results, methods), group_curves_figure(results, methods)]


def _differences(results: Results, methods: Methods) -> list[Block]:
    blocks: list[Block] = []
    if results.get("paired"):
        blocks += [differences_figure(results, methods), paired_table(results, methods)]
    return [*blocks, *versus_first_tables(results, methods)]


def _few_shot(results: Results, methods: Methods) -> list[Block]:
    figure = few_shot_figure(results, methods)
    note = results.get("few_shot_note")
    return _present([Text(str(note)) if note and figure else None, figure])


def _communication(settings: Mapping[str, Any], run: RunFiles | None) -> list[Block]:
    blocks: list[Block] = [Text(compression_sentence(settings))]
    if run and run.rounds:
        blocks.append(Text("The figure shows the first finished federated run of this comparison."))
        blocks.append(communication_figure(run))
    blocks.append(Text(f"{what_left_clients(settings)} {privacy_sentence(settings)}"))
    return blocks
