from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import vl_convert

import comparison.results
from comparison.versus_first import METRICS as VERSUS_FIRST
from report.blocks import Claims, Figure, Report, Table
from report.build import build_report
from report.comparison_report import comparison_report
from report.comparison_tables import versus_first_tables
from report.figures import standalone_spec
from report.methods import Methods
from report.numbers import MINUS, NONE
from tests.report.fake_results import HELD_OUT, METHODS, SEEDS, fake_results, interval
from tests.report.pages import Page, read_page

MISSING = ["federated fedprox, seed 3, fold 1", "probe, seed 2"]
FIGURES = [
    "alignment-score",
    "groups-over-rounds",
    "groups",
    "differences",
    "few-shot",
    "reliability",
]


def report_of(results: Mapping[str, Any], run: Path | None = None) -> Report:
    return comparison_report(Path("somewhere/demo"), results, run)


def blocks(report: Report, name: str) -> list[Any]:
    return [block for each in report.sections if each.name == name for block in each.blocks]


def figure(report: Report, name: str) -> Figure:
    return next(figure for figure in report.figures() if figure.name == name)


@pytest.fixture(scope="session")
def report(finished_run: Path) -> Report:
    return report_of(fake_results(missing=MISSING), finished_run)


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Page:
    """The page of a comparison's directory."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "comparison.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison.results, "load_results", lambda _: fake_results(missing=MISSING))
        patch.setattr(comparison.results, "federated_run", lambda _: finished_run)
        build_report(folder)
    return read_page(folder / "report.html")


def test_all_sections_are_there_in_order(report: Report, page: Page) -> None:
    names = [section.name for section in report.sections]
    assert names == [
        *("claims", "results", "curves", "groups", "differences", "few-shot", "calibration"),
        *("questions", "communication", "settings", "words", "cite"),
    ]
    assert [figure.name for figure in report.figures()] == [*FIGURES, "traffic"]
    assert set(page.data["figures"]) == {*FIGURES, "traffic"}


def test_the_summary_names_the_first_and_the_federated_method(report: Report) -> None:
    assert "Centralized, equal rounds has the highest mean alignment score: 0.793" in report.summary
    assert "Federated (FedAvg) reaches 0.790 (0.784 to 0.796), rank 2 of 7" in report.summary
    assert "5 seeds, with 8 training and 6 held-out groups" in report.summary


def test_the_summary_names_the_second_when_the_first_is_federated() -> None:
    text = report_of(fake_results(absent=["centralized"])).summary
    assert text.startswith("On held-out groups, Federated (FedAvg) has the highest")
    assert "Federated (FedProx) follows with 0.787" in text


def test_missing_cells_are_named(page: Page, report: Report) -> None:
    (notice,) = report.notices
    assert "2 cells" in notice.text
    for cell in MISSING:
        assert cell in page.text


def test_a_complete_comparison_has_no_notice() -> None:
    assert report_of(fake_results()).notices == []


def test_the_headline_table_holds_means_with_intervals(page: Page) -> None:
    row = page.row("Held-out groups", "Federated (FedAvg)")
    cells = {heading.split(" is better")[0]: cell for heading, cell in row.items()}
    assert cells["Alignment scorehigher"] == f"0.7900.784{NONE}0.796"
    assert cells["Top optionhigher"] == f"59.0 %57.0{NONE}61.0 %"
    assert cells["Rounds to 95 %lower"].startswith("14.0★")
    assert cells["Steps to 95 %lower"].startswith("84★")
    best = page.row("Held-out groups", "Centralized, equal rounds")
    assert next(iter([c for h, c in best.items() if h.startswith("Align")])).startswith("0.793★")
    uniform = page.row("Held-out groups", "Uniform")
    assert next(c for h, c in uniform.items() if h.startswith("Rounds")) == NONE


def test_training_groups_have_a_table_of_their_own(page: Page) -> None:
    row = page.row("Training groups", "Federated (FedAvg)")
    assert next(c for h, c in row.items() if h.startswith("Alignment")).startswith("0.811")


def test_costs_are_shown_and_have_no_best(page: Page) -> None:
    row = page.row("Cost of one run", "Federated (FedAvg)")
    cells = list(row.values())
    assert f"1,320.5{''}" in cells  # the same in all seeds: no interval
    assert f"61.358.8{NONE}63.8" in cells
    assert "★" not in "".join(cells)
    assert NONE in page.row("Cost of one run", "Local, each group alone").values()


def test_every_method_says_whose_answers_it_reads(page: Page) -> None:
    for label, *_ in METHODS.values():
        assert page.row("Whose answers", label)["Reads"]


def test_claims_carry_paper_measurement_and_verdict(report: Report) -> None:
    (claims,) = blocks(report, "claims")
    assert isinstance(claims, Claims)
    first, second, third = claims.claims
    assert (first.verdict, first.facts["Paper"]) == ("smaller than claimed", "46 %")
    assert first.facts["Measured"].startswith("36.4 (30.3 to 42.5) % fewer rounds")
    assert second.facts["Measured"].startswith(f"{MINUS}0.38 ({MINUS}1.28 to 0.52) %")
    assert third.facts["Versus"] == "centralized, equal rounds"


def test_a_claim_that_could_not_be_measured_says_so() -> None:
    results = fake_results()
    results["claims"][0]["measured"] = {"mean": None, "low": None, "high": None, "per_seed": []}
    results["claims"][1]["measured"] = None
    (claims,) = blocks(report_of(results), "claims")
    assert [claim.facts["Measured"] for claim in claims.claims[:2]] == ["not measured"] * 2


def test_curves_can_be_seen_over_four_quantities_and_for_both_roles(report: Report) -> None:
    curves = figure(report, "alignment-score")
    x_fields = {
        view.choice: view.spec["layer"][-1]["encoding"]["x"]["field"] for view in curves.views
    }
    assert len(x_fields) == 8
    assert x_fields["Held-out groups", "Rounds"] == "round"
    assert x_fields["Training groups", "Megabytes"] == "megabytes"
    labels = [point["label"] for point in curves.datasets["points"]]
    assert "Uniform" not in labels  # it does not learn, and is a level
    assert {row["label"] for row in curves.datasets["levels"]} == {"Population mean", "Uniform"}


def test_curves_hold_the_results(report: Report) -> None:
    points = figure(report, "alignment-score").datasets["points"]
    expected = fake_results()["curves"]["centralized"]
    shown = [p for p in points if p["label"] == METHODS["centralized"][0] and p["role"] == "train"]
    assert [p["mean"] for p in shown] == [point["train"]["mean"] for point in expected]
    assert [p["high"] for p in shown] == [point["train"]["high"] for point in expected]
    assert [p["seconds"] for p in shown] == [point["seconds"] for point in expected]


def test_groups_are_ranked_by_the_first_method(report: Report) -> None:
    groups = figure(report, "groups")
    scores = fake_results()["groups"]["federated fedavg"]
    order = sorted(HELD_OUT, key=lambda g: -scores[g]["alignment_score"]["mean"])
    assert groups.views[0].spec["layer"][-1]["encoding"]["y"]["sort"] == order
    with_interval = {p["label"] for p in groups.datasets["points"] if p["low"] is not None}
    assert with_interval == {"Federated (FedAvg)"}
    assert len({p["label"] for p in groups.datasets["points"]}) == 6


def test_many_groups_stay_readable() -> None:
    many = [f"Community {i}" for i in range(120)]
    groups = figure(report_of(fake_results(held_out=many)), "groups")
    assert groups.views[0].spec["height"] >= 120 * 18
    svg = vl_convert.vegalite_to_svg(standalone_spec(groups, groups.views[0]))
    assert all(f">{name}</text>" in svg for name in many)


def test_groups_of_folds_are_shown_together() -> None:
    results = fake_results()
    results["folds"] = 3
    for entries in results["groups"].values():
        for entry in entries.values():
            entry["role"] = "both"
    report = report_of(results)
    assert len(figure(report, "groups").views) == 1
    assert figure(report, "groups").views[0].title == "Alignment score of each group, by method"
    assert "5 seeds and 3 folds of groups" in report.summary


def test_differences_come_with_p_values_and_the_name_of_the_test(report: Report) -> None:
    table = blocks(report, "differences")[1]
    assert isinstance(table, Table)
    assert table.note.startswith("Sign-flip permutation test")
    first = [cell.text for cell in table.rows[0]]
    assert first[:3] == ["Federated (FedAvg)", "Centralized, equal rounds", "Held-out groups"]
    assert first[3] == f"{MINUS}0.0030 ({MINUS}0.0110 to 0.0050)"
    assert first[4:] == ["0.410", "6", "5"]
    assert figure(report, "differences").views[0].spec["layer"][0]["data"]["name"] == "zero"


def test_small_p_values_are_not_zero() -> None:
    results = fake_results()
    results["paired"][0]["p_value"] = 0.00002
    results["paired"][1]["p_value"] = None
    rows = blocks(report_of(results), "differences")[1].rows
    assert [rows[0][4].text, rows[1][4].text] == ["< 0.001", NONE]


def test_few_shot_sizes_are_in_order_from_zero(report: Report) -> None:
    spec = figure(report, "few-shot").views[0].spec
    sizes = ["0", "1", "2", "5", "10", "20", "50", "100"]
    assert spec["layer"][0]["encoding"]["x"]["sort"] == sizes
    assert "same 40 target questions" in blocks(report, "few-shot")[0].text


def test_reliability_has_a_diagonal_and_fixed_limits(report: Report) -> None:
    reliability = figure(report, "reliability")
    assert reliability.datasets["diagonal"] == [
        {"predicted": 0, "true": 0},
        {"predicted": 1, "true": 1},
    ]
    encoding = reliability.views[0].spec["layer"][-1]["encoding"]
    assert encoding["x"]["scale"]["domain"] == encoding["y"]["scale"]["domain"] == [0, 1]


def test_a_method_looks_the_same_in_all_figures(report: Report) -> None:
    colours = set()
    for name in FIGURES[:1] + FIGURES[2:3] + FIGURES[4:]:
        colour = figure(report, name).views[0].spec["layer"][-1]["encoding"]["color"]["scale"]
        colours.add(dict(zip(colour["domain"], colour["range"], strict=True))["Federated (FedAvg)"])
    cell = blocks(report, "results")[0].rows[0][0]
    assert colours == {cell.colour}


def test_every_view_of_every_figure_can_be_drawn(report: Report) -> None:
    for each in report.figures():
        for view in {view.title: view for view in each.views}.values():
            assert view.title in vl_convert.vegalite_to_svg(standalone_spec(each, view))


# -- incomplete comparisons


@pytest.mark.parametrize("absent", [["centralized"], ["uniform", "probe"], list(METHODS)[1:]])
def test_methods_without_results_are_left_out(absent: list[str]) -> None:
    report = report_of(fake_results(absent=absent, missing=absent))
    table = blocks(report, "results")[0]
    labels = [row[0].text for row in table.rows]
    assert labels == [entry[0] for name, entry in METHODS.items() if name not in absent]


def test_nothing_finished_is_no_failure() -> None:
    report = report_of(fake_results(absent=METHODS, missing=["everything"]))
    assert report.summary.startswith("No cell of this comparison has finished yet")
    assert report.figures() == []
    assert report.key_figures == []


def test_empty_results_are_no_failure() -> None:
    assert report_of({}).sections


def test_without_intervals_only_means_are_shown() -> None:
    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            low = {"low": None, "high": None} if "per_seed" in value else {}
            return {key: bare(inner) for key, inner in value.items()} | low
        return [bare(inner) for inner in value] if isinstance(value, list) else value

    results = bare(fake_results())
    results["seeds"] = SEEDS[:1]
    report = report_of(results)
    assert "intervals" not in report.summary
    assert "over 1 seed," in report.summary
    assert not any(cell.detail for row in blocks(report, "results")[0].rows for cell in row)
    for each in report.figures():
        vl_convert.vegalite_to_svg(standalone_spec(each, each.views[0]))


def test_only_training_groups_are_enough() -> None:
    results = fake_results()
    for entry in results["table"].values():
        entry["held_out"] = None
    for points in results["curves"].values():
        for point in points:
            point["held_out"] = None
    report = report_of(results)
    assert report.summary.startswith("On training groups,")
    assert len(figure(report, "alignment-score").views) == 4


def test_clipping_has_a_privacy_section() -> None:
    report = report_of(fake_results(settings={"strategy.clipping-norm": 1.0}))
    assert [section.name for section in report.sections if section.name == "privacy"]
    assert not blocks(report_of(fake_results()), "privacy")
    last = blocks(report_of(fake_results()), "communication")[-1]
    assert "No formal (differential) privacy was applied" in last.text


def test_the_command_is_repeated(page: Page) -> None:
    assert "pluralllm compare conf/global-opinions.toml --seeds 5" in page.text


# -- strategies against the first


def against_first() -> dict[str, Any]:
    other = {key: interval(-0.0123) for key in VERSUS_FIRST} | {
        "cov": {"mean": 0.00456, "low": None, "high": None, "per_seed": [0.00456]}
    }
    roles = {"held_out": {"federated fedprox": other}, "train": {"federated fedprox": other}}
    results = fake_results()
    results["versus_first"] = {"versus": "federated fedavg", "roles": roles, "note": "By seed."}
    return results


def test_strategies_have_a_table_against_the_first_for_each_role() -> None:
    results = against_first()
    held_out, train = versus_first_tables(results, Methods.of(results))
    for table, role in ((held_out, "Held-out"), (train, "Training")):
        wanted = f"{role} groups: difference to Federated (FedAvg), and 95 % interval"
        assert table.caption == wanted
        assert table.note == "By seed."
    assert [column.heading for column in held_out.columns] == [
        *("Method", "Alignment score", "Worst group", "Worst decile", "CoV", "Fairness index")
    ]
    (row,) = held_out.rows
    assert row[0].text == "Federated (FedProx)"
    assert row[0].colour
    assert row[1].text == f"{MINUS}0.0123 ({MINUS}0.0183 to {MINUS}0.0063)"
    assert row[4].text == "0.0046"  # without an interval


def test_tables_against_the_first_come_last_among_the_differences() -> None:
    results = against_first()
    tables = [b for b in blocks(report_of(results), "differences") if isinstance(b, Table)]
    assert [table.caption.split(":")[0] for table in tables[-2:]] == [
        *("Held-out groups", "Training groups")
    ]
    results["paired"] = []  # without a centralized method
    assert len(blocks(report_of(results), "differences")) == 2


@pytest.mark.parametrize(
    "compared", [None, {}, {"versus": "federated fedavg", "roles": {}, "note": "By seed."}]
)
def test_without_anything_to_compare_there_is_no_table(compared: Any) -> None:
    results = {**fake_results(), "versus_first": compared}
    assert versus_first_tables(results, Methods.of(results)) == []
