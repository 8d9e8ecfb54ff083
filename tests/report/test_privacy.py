"""Privacy of runs in reports: made-up guarantees on a finished run's files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.blocks import Figure, Notice, Report, Table
from report.files import RunFiles, read_run
from report.privacy import privacy_settings, what_left_clients
from report.run_report import run_report
from task.config import RunConfig

GUARANTEE = {
    "unit": "client",
    "epsilon": 3.21,
    "delta": 1e-5,
    "relation": "one of 7 clients sends nothing",
    "sampling": "none at all",
    "accountant": "an accountant",
    "excludes": ["the moon", "the server"],
}
CLIENT = {"privacy.unit": "client", "privacy.noise-multiplier": 1.0, "strategy.clipping-norm": 0.5}


@pytest.fixture
def run(finished_run: Path) -> RunFiles:
    return read_run(finished_run)


def private(run: RunFiles, epsilons: list[float | None], **settings: Any) -> RunFiles:
    """The run, with an epsilon for each of its rounds."""
    keys = {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}
    unit = keys.get("privacy.unit", "client")
    rounds = [
        {**entry, "privacy": {**GUARANTEE, "unit": unit, "epsilon": epsilon}}
        for entry, epsilon in zip(run.rounds, epsilons, strict=True)
    ]
    summary = {**run.summary, "privacy": rounds[-1]["privacy"]}
    return replace(run, settings={**run.settings, **CLIENT, **keys}, rounds=rounds, summary=summary)


def blocks(report: Report, kind: type) -> list[Any]:
    return [b for s in report.sections if s.name == "privacy" for b in s.blocks if type(b) is kind]


def said(report: Report) -> str:
    return repr([s.blocks for s in report.sections if s.name == "privacy"])


def test_the_whole_guarantee_is_said(run: RunFiles) -> None:
    report = run_report(private(run, [0.0, 2.0, 3.21]))
    text = said(report)
    assert "Epsilon = 3.21 at delta = 1e-05, for one client." in text
    for key in ("relation", "sampling", "accountant"):
        assert GUARANTEE[key] in text
    (excluded,) = [n for n in blocks(report, Notice) if n.items]
    assert excluded.items == ["the moon", "the server"]
    assert report.key_figures[-1].label == "Epsilon"
    assert (report.key_figures[-1].value, report.key_figures[-1].detail) == (
        "3.21",
        "for one client, delta 1e-05",
    )


def test_an_unfinished_run_has_the_guarantee_of_its_last_round(run: RunFiles) -> None:
    report = run_report(replace(private(run, [0.0, 2.0, 3.0]), summary={}))
    assert "Epsilon = 3 at" in said(report)
    assert "it may have spent more" in said(report)


def test_no_noise_is_no_guarantee(run: RunFiles) -> None:
    report = run_report(private(run, [None, None, None], privacy__noise_multiplier=0.0))
    assert "Epsilon = \N{INFINITY}" in said(report)
    assert "there is no guarantee" in said(report)
    assert not blocks(report, Figure)
    assert report.key_figures[-1].value == "\N{INFINITY}"


@pytest.mark.parametrize("budget", [0.0, 4.5])
def test_what_was_spent_is_drawn_beside_the_budget(run: RunFiles, budget: float) -> None:
    report = run_report(private(run, [0.0, 2.0, 3.21], privacy__max_epsilon=budget))
    (figure,) = blocks(report, Figure)
    assert [(p["round"], p["epsilon"]) for p in figure.datasets["points"]] == [
        *((0, 0.0), (1, 2.0), (2, 3.21))
    ]
    assert [row["epsilon"] for row in figure.datasets["levels"]] == ([budget] if budget else [])
    assert [cell.text for cell in figure.table.rows[1]] == ["1", "2.0000"]


def test_unit_member_costs_the_same_in_all_rounds_and_has_no_figure(run: RunFiles) -> None:
    report = run_report(private(run, [2.0, 2.0, 2.0], privacy__unit="member"))
    assert not blocks(report, Figure)
    assert "Noise was added once" in said(report)


@pytest.mark.parametrize(
    ("unit", "warned"), [("client", True), ("question", True), ("member", False)]
)
def test_exact_scores_beside_an_epsilon_are_warned_of(
    run: RunFiles, unit: str, warned: bool
) -> None:
    report = run_report(private(run, [2.0, 2.5, 3.0], privacy__unit=unit))
    assert any("shows exact scores" in n.text for n in report.notices) is warned
    assert ("shows exact scores" in said(report)) is warned


def test_a_run_that_its_budget_has_ended_says_so(run: RunFiles) -> None:
    stopped = private(run, [0.0, 2.0, 3.0], privacy__max_epsilon=3.1)
    stopped.rounds.append({**stopped.rounds[-1], "stopped": "Stopped before the update."})
    (first, *_) = run_report(stopped).notices
    assert first.text == "The privacy budget has ended this run. Stopped before the update."
    points = blocks(run_report(stopped), Figure)[0].datasets["points"]
    assert [p["round"] for p in points] == [0, 1, 2]


def test_only_settings_that_matter_are_listed() -> None:
    defaults = RunConfig().to_flat()
    assert privacy_settings(defaults) == {}
    listed = privacy_settings({**defaults, **CLIENT, "privacy.num-bands": 4})
    assert {"privacy.unit", "train.sampling", "privacy.num-bands", "privacy.delta"} <= set(listed)
    assert "privacy.sample-rate" not in listed
    assert "privacy.metrics-noise-multiplier" not in listed
    question = privacy_settings({**defaults, "privacy.unit": "question"})
    assert "privacy.sample-rate" in question
    assert "train.sampling" not in question


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy.secure-aggregation": True},
        {"privacy.metrics": "off"},
        {"strategy.clipping-norm": 1.0},
        {"predictor.population-weight": 2.0},
    ],
)
def test_there_is_a_section_without_a_unit_too(run: RunFiles, changes: dict[str, Any]) -> None:
    report = run_report(replace(run, settings={**run.settings, **changes}))
    (table,) = blocks(report, Table)
    assert [row[0].text for row in table.rows] == list(changes)
    assert "No formal (differential) privacy was applied" in said(report)


def test_a_runs_settings_alone_are_no_guarantee(run: RunFiles) -> None:
    report = run_report(replace(run, settings={**run.settings, **CLIENT}))
    assert "has recorded no guarantee" in said(report)
    assert report.key_figures[-1].label != "Epsilon"


@pytest.mark.parametrize(
    ("changes", "there", "absent"),
    [
        ({"privacy.unit": "client"}, "all without noise: the server is trusted", "DP-SGD"),
        ({"privacy.unit": "question"}, "parameters trained with noise (DP-SGD), the", "trusted"),
        (
            {"privacy.unit": "question", "privacy.metrics": "noisy"},
            "(DP-SGD) and a score with noise",
            "training loss",
        ),
        ({"privacy.metrics": "off"}, "parameters and the training loss.", "scores"),
        ({"privacy.unit": "member"}, "computed from answer histograms with noise", "trusted"),
        ({"privacy.secure-aggregation": True}, "the server learns the sum", "trusted"),
    ],
)
def test_what_left_the_clients_depends_on_the_unit(
    changes: dict[str, Any], there: str, absent: str
) -> None:
    text = what_left_clients({**RunConfig().to_flat(), **changes})
    assert there in text
    assert absent not in text
