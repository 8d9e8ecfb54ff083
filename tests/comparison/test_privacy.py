"""Comparisons under differential privacy."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.compare import _manifest
from comparison.cells import CellStore
from comparison.methods import compute_cell
from comparison.privacy import largest
from comparison.results import describe_method, load_results
from comparison.table import to_markdown
from report.blocks import Notice, Table
from report.comparison_report import comparison_report
from task.errors import ConfigError
from tests.comparison.examples import comparison_config, make_plan, only_cell

CLIENT = {
    "privacy__unit": "client",
    "privacy__noise_multiplier": 2.0,
    "strategy__clipping_norm": 0.5,
}
QUESTION = {"privacy__unit": "question", "privacy__noise_multiplier": 2.0}
MEMBER = {"privacy__unit": "member", "privacy__noise_multiplier": 5.0}
FEDERATED = "federated fedavg"


@pytest.mark.parametrize("disclosure", ["noisy", "off"])
def test_a_comparison_needs_exact_scores(disclosure: str) -> None:
    config = comparison_config(**CLIENT, privacy__metrics=disclosure)
    with pytest.raises(ConfigError, match=f"privacy.metrics = '{disclosure}': expected 'full'"):
        make_plan(config=config).cells()


def test_a_strategy_that_cannot_be_private_is_refused_before_anything_is_computed() -> None:
    config = comparison_config(**CLIENT)
    with pytest.raises(ConfigError, match=r"strategy\.name = 'fedmedian'"):
        make_plan(config=config, methods=("federated fedmedian",)).cells()


@pytest.mark.parametrize("changes", [CLIENT, QUESTION])
def test_noise_on_updates_does_not_change_what_is_not_federated(changes: dict[str, Any]) -> None:
    plain, private = only_cell("uniform"), only_cell("uniform", **changes)
    assert private.key == plain.key
    assert private.config.privacy.unit == "none"
    assert only_cell(FEDERATED, **changes).key != only_cell(FEDERATED).key


def test_noise_on_answers_changes_every_method() -> None:
    assert only_cell("population-mean", **MEMBER).key != only_cell("population-mean").key


@pytest.mark.parametrize(
    "changes", [CLIENT, QUESTION, MEMBER], ids=["client", "question", "member"]
)
def test_a_private_federated_cell_keeps_what_its_run_promises(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    cell = only_cell(FEDERATED, **changes)
    store = CellStore(tmp_path)
    result = compute_cell(cell, store.start(cell.key))
    store.finish(cell, result)
    kept = store.read(cell.key).privacy
    assert kept == result.privacy
    assert kept is not None
    assert kept["unit"] == changes["privacy__unit"]
    assert kept["epsilon"] > 0


def test_a_run_that_its_budget_stops_is_a_cell(tmp_path: Path) -> None:
    changes = CLIENT | {"evaluation__every": 2, "train__num_rounds": 4}
    once = compute_cell(only_cell(FEDERATED, **changes | {"train__num_rounds": 1}), tmp_path)
    assert once.privacy is not None
    budget = {"privacy__max_epsilon": once.privacy["epsilon"] * 1.01}
    (tmp_path / "stopped").mkdir()
    result = compute_cell(only_cell(FEDERATED, **changes | budget), tmp_path / "stopped")
    assert result.privacy is not None
    assert result.privacy["epsilon"] == once.privacy["epsilon"]
    assert [point.round for point in result.points] == [0, 1]


def test_the_largest_epsilon_stands_for_a_method() -> None:
    entries = [{"epsilon": 1.0, "unit": "client"}, None, {"epsilon": 3.0, "unit": "client"}]
    assert largest(entries) == {"epsilon": 3.0, "unit": "client", "epsilons": [1.0, 3.0]}
    assert (largest([*entries, {"epsilon": None}]) or {})["epsilon"] is None
    assert largest([None]) is None


def test_every_method_says_whether_it_is_private() -> None:
    def reads(method: str, unit: str) -> str:
        return describe_method(method, {"privacy.unit": unit})["reads"]

    assert "Private, unit client." in reads(FEDERATED, "client")
    assert "Not private" in reads("centralized-rounds", "client")
    assert "All answers carry noise." in reads("centralized-rounds", "member")
    assert "rivate" not in reads(FEDERATED, "none")
    assert reads("uniform", "client") == reads("uniform", "none") == "Nobody's answers are read."


def test_table_and_report_show_the_epsilon_and_who_is_not_private(tmp_path: Path) -> None:
    asked = make_plan(
        config=comparison_config(**CLIENT), methods=(FEDERATED, "uniform"), few_shot=()
    )
    cells, store = asked.cells(), CellStore(tmp_path)
    for cell in cells:
        store.finish(cell, compute_cell(cell, store.start(cell.key)))
    manifest = _manifest(asked, cells, intervals=False)
    (tmp_path / "comparison.json").write_text(json.dumps(manifest))
    results = load_results(tmp_path)
    (method,) = results["privacy"]
    epsilon = f"{results['privacy'][method]['epsilon']:.4g}"
    text = to_markdown(results)
    assert f"| Federated (fedavg) | {epsilon} | 1e-05 | client |" in text
    assert "Methods that are not federated read exact answers" in text
    report = comparison_report(tmp_path, results, None)
    (section,) = [each for each in report.sections if each.name == "privacy"]
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [cell.text for cell in tables[0].rows[0]][:4] == [
        *("Federated (fedavg)", epsilon, "1e-05", "1")
    ]
    assert any("exact scores of groups" in notice.text for notice in report.notices)
    excluded = [b for b in section.blocks if isinstance(b, Notice) and b.items]
    assert list(excluded[0].items) == results["privacy"][method]["excludes"]
