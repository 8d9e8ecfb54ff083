"""The report of a run directory, finished or not."""

from collections.abc import Mapping, Sequence
from typing import Any

from report.blocks import Block, Cell, Column, KeyFigure, Report, Section, Table, Text
from report.files import RunFiles
from report.numbers import ROLE_METRICS, counted, metric_column, number
from report.privacy import disclosure_of, privacy_section, privacy_sentence, what_left_clients
from report.questions import question_section
from report.run_facts import ROLES, epsilon_key_figure, last_sections, notices, title
from report.run_figures import (
    MODELS,
    communication_figure,
    evaluated_rounds,
    group_curves_figure,
    group_dots_figure,
    loss_figure,
    score_figure,
)
from report.sections import compression_sentence, strategy_name
from report.undisclosed_report import undisclosed_report


def run_report(run: RunFiles) -> Report:
    """Return the report of a run."""
    if disclosure_of(run.settings) != "full":
        return undisclosed_report(run)
    role = next((role for role in ROLES if _final(run, role)), "held_out")
    scores = {g: entry["alignment_score"] for g, entry in run.groups.items()}
    sections = [
        Section(
            "results", "Results", [_headline(run, role) for role in ROLES if _final(run, role)]
        ),
        Section("curves", "Learning curves", _curves(run)),
        Section("groups", "Groups", _groups(run)),
        question_section(run.path, run.settings, scores),
        Section("communication", "Communication", _communication(run)),
    ]
    if privacy := privacy_section(run.settings, run):
        sections.append(privacy)
    sections.extend(last_sections(run))
    return Report(
        subject=f"Run {run.path.resolve().name}",
        title=title(run, _last_round(run)),
        summary=_summary(run, role),
        key_figures=[*_key_figures(run, role), *epsilon_key_figure(run)],
        notices=notices(run),
        sections=[section for section in sections if section.blocks],
    )


def _final(run: RunFiles, role: str) -> dict[str, Any]:
    """Return name of a model to its final scores; of an unfinished run, the last evaluation's."""
    if run.summary:
        return {k: v for k, v in (run.summary.get(role) or {}).items() if v}
    evaluated = [entry for entry in evaluated_rounds(run.rounds) if entry.get(role)]
    return {"model": evaluated[-1][role]} if evaluated else {}


def _last_round(run: RunFiles) -> int:
    if "round" in run.summary:
        return int(run.summary["round"])
    evaluated = evaluated_rounds(run.rounds)
    return int(evaluated[-1]["round"]) if evaluated else 0


def _summary(run: RunFiles, role: str) -> str:
    final = _final(run, role)
    strategy = strategy_name(run.settings)
    if not final:
        return "No evaluation has been recorded yet, so there are no scores to show."
    trained = sum(1 for e in run.groups.values() if e.get("role") == "train")
    across = f" across {counted(trained, 'training group')}" if trained else ""
    averaging = f" of {strategy}" if strategy else ""
    model = final["model"]
    rounds = counted(_last_round(run), "round")
    text = (
        f"After {rounds}{averaging}{across}, the predictor's mean alignment score "
        f"on {ROLES[role].lower()} is {number(model['alignment_score'])}"
    )
    comparisons = [
        f"{_beside(model['alignment_score'], final[key]['alignment_score'])} the {name.lower()} "
        f"baseline ({number(final[key]['alignment_score'])})"
        for key, name in list(MODELS.items())[1:]
        if final.get(key)
    ]
    if comparisons:
        text += ", " + " and ".join(comparisons)
    worst = model.get("worst_group_name")
    if worst:
        text += f". The worst of these groups is {worst}, at {number(model['worst_group'])}"
    return text + "."


def _beside(value: float, other: float) -> str:
    if number(value) == number(other):
        return "level with"
    return "above" if value > other else "below"


def _key_figures(run: RunFiles, role: str) -> list[KeyFigure]:
    final = _final(run, role)
    if not final:
        return []
    model, of = final["model"], ROLES[role].lower()
    figures = [KeyFigure("Alignment score", number(model["alignment_score"]), f"mean of {of}")]
    for key, name in list(MODELS.items())[1:]:
        if final.get(key):
            difference = model["alignment_score"] - final[key]["alignment_score"]
            sign = "+" if difference > 0 else ""
            figures.append(
                KeyFigure(
                    f"Against {name.lower()}", sign + number(difference), "difference in score"
                )
            )
    figures.append(
        KeyFigure("Worst group", number(model["worst_group"]), model.get("worst_group_name", ""))
    )
    figures.append(KeyFigure("Fairness index", number(model["fairness_index"], 4), f"over {of}"))
    return figures


def _headline(run: RunFiles, role: str) -> Table:
    final = _final(run, role)
    names = [key for key in MODELS if final.get(key)]
    best_round = run.summary.get("best_round")
    best = (run.summary.get("best") or {}).get(role)
    labels = [MODELS[key].capitalize() for key in names]
    entries: list[Mapping[str, Any]] = [final[key] for key in names]
    if best and best_round != run.summary.get("round"):
        labels.insert(1, f"Predictor of round {best_round}")
        entries.insert(1, best)
    metrics = [m for m in ROLE_METRICS if any(e.get(m.key) is not None for e in entries)]
    columns = [
        metric_column(metric, [{"mean": entry.get(metric.key)} for entry in entries])
        for metric in metrics
    ]
    note = "★ marks the best of a column."
    if len(labels) > len(names):
        note += (
            f" The predictor of round {best_round} is predictor-best, chosen by the training "
            "groups' held-back questions."
        )
    return Table(
        f"{ROLES[role]}: scores after round {_last_round(run)}",
        [Column("", numeric=False), *(Column(m.heading, m.hint) for m in metrics)],
        [[Cell(label), *cells] for label, *cells in zip(labels, *columns, strict=True)],
        note,
    )


def _curves(run: RunFiles) -> Sequence[Block]:
    if not evaluated_rounds(run.rounds):
        return [Text("No round has been evaluated.")]
    blocks: list[Block] = [score_figure(run), group_curves_figure(run)]
    if any(entry.get("loss") is not None for entry in run.rounds):
        blocks.append(loss_figure(run))
    return blocks


def _groups(run: RunFiles) -> Sequence[Block]:
    return [group_dots_figure(run)] if run.groups else [Text("There are no scores per group yet.")]


def _communication(run: RunFiles) -> Sequence[Block]:
    blocks: list[Block] = []
    if any("megabytes_down" in entry for entry in run.rounds):
        down = sum(entry.get("megabytes_down") or 0 for entry in run.rounds)
        up = sum(entry.get("megabytes_up") or 0 for entry in run.rounds)
        seconds = sum(entry.get("seconds") or 0 for entry in run.rounds)
        blocks.append(
            Text(
                f"All clients together were sent {number(down, 1)} MB and sent back "
                f"{number(up, 1)} MB in {number(seconds, 0)} seconds; rounds with an evaluation "
                f"send the parameters twice. {compression_sentence(run.settings)}"
            )
        )
        blocks.append(communication_figure(run))
    blocks.append(Text(f"{what_left_clients(run.settings)} {privacy_sentence(run.settings)}"))
    return blocks
