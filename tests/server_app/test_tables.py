import pytest

from server_app.tables import RoundTable, print_groups, print_summary

ROLE = {
    "alignment_score": 0.65432,
    "alignment_score_seen_questions": 0.7,
    "alignment_score_new_questions": None,
    "worst_group": 0.54321,
    "worst_group_name": "Côte d'Ivoire",
    "cov": 0.1,
    "fairness_index": 0.98765,
}
COSTS = {"seconds": 1.25, "megabytes_down": 10.5, "megabytes_up": 0.4}


def rows(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line]


def entry(role: str, score: float) -> dict:
    splits = {"alignment_score_seen_questions": None, "alignment_score_new_questions": 0.25}
    baselines = {"uniform": 0.5, "population_mean": 0.625}
    return {"role": role, "alignment_score": score, **splits, **baselines}


def test_an_evaluated_round_shows_scores_fairness_and_costs(capsys) -> None:
    table = RoundTable(has_held_out=True)
    train = {**ROLE, "alignment_score": 0.8, "worst_group_name": "Spain"}
    table.print_row(3, {"loss": 1.5, "held_out": ROLE, "train": train, **COSTS})
    header, row = rows(capsys)
    assert "worst held-out group" in header
    scores = ["0.8000", "0.6543", "0.5432", "Côte", "d'Ivoire", "0.9877"]
    assert row.split() == ["3", "1.5000", *scores, "1.2", "10.5", "0.4"]


def test_a_round_that_was_not_evaluated_shows_dashes(capsys) -> None:
    RoundTable(has_held_out=True).print_row(4, {"loss": None, **COSTS})
    _, row = rows(capsys)
    assert row.split() == ["4", "-", "-", "-", "-", "1.2", "10.5", "0.4"]


def test_the_header_is_printed_once(capsys) -> None:
    table = RoundTable(has_held_out=True)
    for step in range(3):
        table.print_row(step, {"loss": None, **COSTS})
    printed = rows(capsys)
    assert len(printed) == 4
    assert "round" in printed[0]


def test_without_held_out_groups_fairness_is_over_training_groups(capsys) -> None:
    table = RoundTable(has_held_out=False)
    table.print_row(0, {"loss": None, "held_out": None, "train": ROLE, **COSTS})
    header, row = rows(capsys)
    assert "worst train group" in header
    assert row.split()[1:4] == ["-", "0.6543", "-"]
    assert "0.5432 Côte d'Ivoire" in row


def test_failures_are_printed_by_name_below_the_row(capsys) -> None:
    failing = {"failures": {"Japan": "no reply"}, "evaluation_failures": {"Spain": "lost"}}
    RoundTable(has_held_out=True).print_row(1, {"loss": 1.0, **failing, **COSTS})
    assert [line.strip() for line in rows(capsys)[2:]] == [
        "training without Japan: no reply",
        "evaluation without Spain: lost",
    ]


def test_groups_are_printed_best_first_within_their_role(capsys) -> None:
    print_groups(
        {
            "Peru": entry("train", 0.7),
            "Japan": entry("held-out", 0.4),
            "Spain": entry("train", 0.9),
            "A group with a long name": entry("held-out", 0.6),
        }
    )
    _, *printed = rows(capsys)
    assert [row[:24].strip() for row in printed] == [
        "A group with a long name",
        "Japan",
        "Spain",
        "Peru",
    ]
    assert printed[1].split() == (
        ["Japan", "held-out", "0.4000", "-", "0.2500", "0.5000", "0.6250"]
    )


def test_groups_are_printed_without_baselines_where_there_are_none(capsys) -> None:
    scored = entry("train", 0.7)
    del scored["uniform"], scored["population_mean"]
    print_groups({"Peru": scored})
    header, row = rows(capsys)
    assert header.split() == ["group", "role", "AS", "seen", "q.", "new", "q."]
    assert row.split() == ["Peru", "train", "0.7000", "-", "0.2500"]


def test_the_summary_has_a_row_for_each_role_and_method_that_was_scored(capsys) -> None:
    print_summary(
        {
            "held_out": {"model": ROLE, "uniform": {**ROLE, "alignment_score": 0.3}},
            "train": {"model": None, "population_mean": ROLE},
        }
    )
    _, *printed = rows(capsys)
    assert [row[:26].strip() for row in printed] == [
        "held-out model",
        "held-out uniform",
        "train population mean",
    ]
    assert printed[1].split()[2:] == ["0.3000", "0.7000", "-", "0.5432", "0.1000", "0.9877"]


@pytest.mark.parametrize("has_held_out", [True, False])
def test_rows_end_where_their_header_ends(capsys, has_held_out: bool) -> None:
    table = RoundTable(has_held_out=has_held_out)
    table.print_row(3, {"loss": 1.5, "held_out": ROLE, "train": ROLE, **COSTS})
    table.print_row(4, {"loss": None, **COSTS})
    assert len({len(row) for row in rows(capsys)}) == 1
    print_groups({"Japan": entry("held-out", 0.4), "Spain": entry("train", 0.9)})
    assert len({len(row) for row in rows(capsys)}) == 1
    print_summary({"held_out": {"model": ROLE}, "train": {"population_mean": ROLE}})
    assert len({len(row) for row in rows(capsys)}) == 1


def test_a_predictor_below_a_baseline_is_said_to_be(capsys) -> None:
    models = {"model": ROLE, "uniform": {**ROLE, "alignment_score": 0.7}, "population_mean": ROLE}
    print_summary({"held_out": models, "train": models})
    (said,) = [line for line in rows(capsys) if line.startswith("The predictor")]
    assert "below the uniform baseline" in said


def test_own_parameters_have_a_row_below_the_training_groups(capsys) -> None:
    own = {"alignment_score": 0.75, "worst_group": 0.5, "cov": 0.25, "fairness_index": 0.9375}
    print_summary({"held_out": {"model": ROLE}, "train": {"model": ROLE}, "personal": own})
    _, *printed = rows(capsys)
    assert [row[:26].strip() for row in printed] == [
        "held-out model",
        "train model",
        "train, own parameters",
    ]
    assert printed[2].split()[3:] == ["0.7500", "-", "-", "0.5000", "0.2500", "0.9375"]
    assert len(set(map(len, printed))) == 1
