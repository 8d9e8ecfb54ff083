"""The report of a run that discloses no group's scores: noisy means over groups, or none."""

from typing import Any

from report.blocks import Block, Cell, Column, KeyFigure, Report, Section, Table, Text
from report.files import RunFiles
from report.noisy_scores import groups_of, noise_of_means
from report.numbers import NONE, counted, number
from report.privacy import (
    disclosure_of,
    privacy_section,
    privacy_sentence,
    what_left_clients,
)
from report.privacy_figures import noisy_rounds, noisy_score_figure
from report.run_facts import ROLES, epsilon_key_figure, last_sections, notices, title
from report.sections import compression_sentence, strategy_name
from task.metrics import SCORE_RANGE

_RANGE = SCORE_RANGE[1] - SCORE_RANGE[0]
_OFF = (
    "Groups were asked for no scores (privacy.metrics = off), so there are none here: the run "
    "tells nothing about how well its predictor does. predictor-best is the last one."
)
_NO_BASELINES = (
    "Scores of single groups, baselines, losses and who took part are not recorded: they would be "
    "exact."
)


def undisclosed_report(run: RunFiles) -> Report:
    """Return the report of a run with `privacy.metrics` `noisy` or `off`."""
    means, noise = _means(run), noise_of_means(run.settings)
    last_round = int(run.rounds[-1]["round"]) if run.rounds else 0
    off = disclosure_of(run.settings) == "off"
    sections = [Section("results", "Results", [Text(_OFF)] if off else _results(run, means, noise))]
    if noisy_rounds(run.rounds):
        sections.append(Section("curves", "Learning curves", [noisy_score_figure(run)]))
    sections.append(Section("communication", "Communication", [_communication(run)]))
    if privacy := privacy_section(run.settings, run):
        sections.append(privacy)
    return Report(
        subject=f"Run {run.path.resolve().name}",
        title=title(run, last_round),
        summary=_summary(run, means, noise, last_round),
        key_figures=[*_key_figures(means, noise), *epsilon_key_figure(run)],
        notices=notices(run),
        sections=[*sections, *last_sections(run)],
    )


def _means(run: RunFiles) -> dict[str, float]:
    """Return each role's last noisy mean."""
    found = {}
    for role in ROLES:
        lines = [entry[role] for entry in run.rounds if entry.get(role)]
        model: dict[str, Any] | None = (run.summary.get(role) or {}).get("model")
        if entry := model or (lines[-1] if lines else None):
            found[role] = float(entry["alignment_score"])
    return found


def _summary(
    run: RunFiles, means: dict[str, float], noise: dict[str, float], last_round: int
) -> str:
    trained = groups_of(run.settings).get("train")
    across = f" across {counted(trained, 'training group')}" if trained else ""
    strategy = strategy_name(run.settings)
    text = (
        f"{counted(last_round, 'round')}{f' of {strategy}' if strategy else ''}{across}. "
        if run.rounds
        else ""
    )
    if disclosure_of(run.settings) == "off":
        return f"{text}This run discloses no scores."
    if not means:
        return "No evaluation has been recorded yet, so there are no scores to show."
    parts = [
        f"{number(mean)} on {ROLES[role].lower()}"
        + (f" (noise: standard deviation {number(noise[role])})" if role in noise else "")
        for role, mean in means.items()
    ]
    text += f"The mean alignment score, with noise, is {' and '.join(parts)}."
    if drowned := [ROLES[role].lower() for role in means if _drowned(noise.get(role, 0.0))]:
        text += (
            f" There are too few {' and '.join(drowned)} for so much noise: their mean tells "
            "nothing."
        )
    return text


def _drowned(noise: float) -> bool:
    """Return whether a mean's interval is wider than the range of scores: it tells nothing."""
    return 2 * 1.96 * noise >= _RANGE


def _key_figures(means: dict[str, float], noise: dict[str, float]) -> list[KeyFigure]:
    return [
        KeyFigure(
            ROLES[role],
            number(mean),
            "mean score with noise"
            + (
                f", \N{PLUS-MINUS SIGN} {number(1.96 * noise[role])} (95 %)"
                if role in noise
                else ""
            ),
        )
        for role, mean in means.items()
    ]


def _results(run: RunFiles, means: dict[str, float], noise: dict[str, float]) -> list[Block]:
    if not means:
        return [Text("No round has been evaluated.")]
    counts = groups_of(run.settings)
    best = run.summary.get("best_round")
    rows = [
        [
            Cell(ROLES[role]),
            Cell(number(mean, 4)),
            Cell(number(noise[role], 4) if role in noise else NONE),
            Cell(f"{counts[role]:,}" if role in counts else NONE),
        ]
        for role, mean in means.items()
    ]
    headings = ("Groups", "Noisy mean", "Noise (standard deviation)", "Number of groups")
    note = f"{_NO_BASELINES} "
    if run.settings.get("privacy.unit") == "client":
        note += "Means are cut off at the ends of the range of scores, 0.167 and 1."
    else:
        note += "Noise may take a mean out of the range of scores, 0.167 to 1."
    if best is not None:
        note += (
            f" predictor-best is of round {best}, whose noisy mean over training groups was "
            "the highest."
        )
    return [
        Table(
            "Mean alignment score with noise, at the last evaluation",
            [Column(heading, numeric=heading != "Groups") for heading in headings],
            rows,
            note,
        )
    ]


def _communication(run: RunFiles) -> Text:
    settings = run.settings
    return Text(
        f"{compression_sentence(settings)} How much was sent is not recorded, as it would tell who "
        f"took part. {what_left_clients(settings)} {privacy_sentence(settings)}"
    )
