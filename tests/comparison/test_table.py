from pathlib import Path
from typing import Any

import pytest

from comparison.results import load_results
from comparison.table import COLUMNS, markdown, to_markdown
from tests.comparison.examples import result, write_comparison

CURVE = (0.5, 1.0)


def shown(tmp_path: Path, given: dict[tuple[str, int, int], Any], **options: Any) -> str:
    return to_markdown(load_results(write_comparison(tmp_path / "mine", given, **options)))


def rows_of(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a title, its heading first."""
    after = text.split(f"### {title}\n\n")[1]
    lines = after.split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture
def text(tmp_path: Path) -> str:
    given = {}
    for seed in (0, 1):
        more = 0.1 * seed
        few = {0: {"C": 0.4 + more}, 2: {"C": 0.5}}
        given["federated fedavg", seed, 0] = result(
            {"A": 0.9, "C": 0.7 + more, "D": 0.7}, curve=CURVE, few_shot=few
        )
        given["centralized-rounds", seed, 0] = result({"A": 0.9, "C": 0.6, "D": 0.6}, curve=CURVE)
        given["uniform", seed, 0] = result({"A": 0.5, "C": 0.5, "D": 0.5})
    return shown(tmp_path, given)


def test_markdown_is_a_table() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_scores_are_shown_with_their_interval(text: str) -> None:
    heading, line, federated, centralized, uniform = rows_of(text, "Held-out groups")
    assert heading == ["method", *COLUMNS.values()]
    assert set(line) == {"---"}
    assert federated[:2] == ["Federated (fedavg)", "0.7250 [0.7000, 0.7500]"]
    assert centralized[:2] == ["Centralized, equal rounds", "0.6000"]  # an interval of no width
    assert uniform[0] == "Uniform"
    assert uniform[-1] == "-"
    assert len({len(row) for row in (heading, line, federated, centralized, uniform)}) == 1


def test_costs_are_shown_where_there_are_any(text: str) -> None:
    heading, _, federated, _, uniform = rows_of(text, "Cost")
    assert heading == ["method", "optimizer steps", "episodes", "seconds", "MB sent"]
    assert federated == ["Federated (fedavg)", "2.0", "6.0", "1.0", "10.00"]
    assert uniform == ["Uniform", "-", "-", "-", "-"]


def test_differences_are_shown_with_sign_p_value_and_number_of_groups(text: str) -> None:
    rows = rows_of(text, "Against centralized training")
    assert rows[2][:3] == ["Federated (fedavg)", "Centralized, equal rounds", "held-out"]
    assert rows[2][3].startswith("+0.1250 [+0.")
    assert rows[2][4:] == ["0.175", "2"]
    assert rows[3][4:] == ["-", "1"]  # one training group
    assert "two-way t test" in text


def test_few_shot_sizes_are_columns(text: str) -> None:
    heading, _, federated = rows_of(text, "Number of context questions")
    assert heading == ["method", "0", "2"]
    assert federated == ["Federated (fedavg)", "0.450 [0.400, 0.500]", "0.500"]


def test_claims_are_shown_with_their_verdicts(text: str) -> None:
    rows = rows_of(text, "The paper's claims")
    assert [row[0] for row in rows[2:]] == [
        "46 % faster convergence",
        "46 % faster convergence, in optimizer steps",
        "4 % better alignment",
        "equal group fairness",
    ]
    assert rows[4][4].startswith("**reproduced**: ")


def test_missing_cells_are_said_first(tmp_path: Path) -> None:
    given = {("uniform", seed, 0): None for seed in range(7)}
    given["uniform", 0, 0] = result({"A": 0.5, "C": 0.5})
    text = shown(tmp_path, given)
    assert text.startswith("Not finished: 6 cells are missing (uniform, seed 1, fold 0; ")
    assert "seed 6" not in text  # only a few are named


def test_a_comparison_without_held_out_groups_shows_the_training_groups_alone(
    tmp_path: Path,
) -> None:
    given = {("uniform", seed, 0): result({"A": 0.5, "B": 0.6}, held_out=()) for seed in (0, 1)}
    text = shown(tmp_path, given)
    assert "Held-out groups" not in text
    assert rows_of(text, "Training groups (held-back questions)")[2][1] == "0.5500"


def test_a_comparison_of_nothing_finished_can_be_shown(tmp_path: Path) -> None:
    text = shown(tmp_path, {("uniform", 0, 0): None})
    assert text.startswith("Not finished: 1 cells are missing")


def test_strategies_are_shown_against_the_first(tmp_path: Path) -> None:
    given = {
        ("federated fedavg", 0, 0): result({"A": 0.5, "C": 0.6, "D": 0.8}),
        ("federated fedavg", 1, 0): result({"A": 0.5, "C": 0.7, "D": 0.9}),
        ("uniform", 0, 0): result({"A": 0.5, "C": 0.5, "D": 0.5}),
        ("federated term", 0, 0): result({"A": 0.4, "C": 0.7, "D": 0.9}),
        ("federated term", 1, 0): result({"A": 0.4, "C": 0.9, "D": 1.0}),
    }
    text = shown(tmp_path, given)
    rows = rows_of(text, "Against Federated (fedavg): Held-out groups")
    assert rows[0] == ["method", "AS", "worst group", "worst decile", "CoV", "FI"]
    (row,) = rows[2:]
    # 0.1 and 0.15: 0.125, and 12.7062 * 0.025 = 0.3177 on both sides
    assert row[:2] == ["Federated (term)", "+0.1250 [-0.1927, +0.4427]"]
    assert row[2] == row[3] == "+0.1500 [-0.4853, +0.7853]"
    assert row[4].startswith("-0.0451 [")
    title = "Against Federated (fedavg): Training groups (held-back questions)"
    assert rows_of(text, title)[2][:2] == ["Federated (term)", "-0.1000"]
    assert "Paired differences, seed by seed; intervals are 95 % t intervals" in text


def test_with_one_strategy_there_is_no_table_against_the_first(text: str) -> None:
    assert "Against Federated" not in text
