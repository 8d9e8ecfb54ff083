import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import vl_convert
from PIL import Image

from report.blocks import Figure, Report
from report.build import build_report
from report.figures import standalone_spec
from report.files import read_run
from report.page import render, write_report
from report.run_report import run_report
from task.errors import RunDirectoryError
from tests.report.conftest import HOSTILE
from tests.report.pages import Page, read_page


@pytest.fixture(scope="session")
def report(finished_run: Path) -> Report:
    return run_report(read_run(finished_run))


def test_nothing_is_loaded_from_elsewhere(run_page: Page) -> None:
    for tag, attributes in run_page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not {"src", "srcset", "poster", "action"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"@import|url\(", "".join(run_page.styles))
    own_script = run_page.scripts[-1]
    assert not re.search(r"fetch|XMLHttpRequest|https?:|import\(", own_script)


def test_the_policy_forbids_loading_anything(run_page: Page) -> None:
    policy = next(
        attributes["content"]
        for attributes in run_page.attributes("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_the_page_is_well_formed_and_can_be_read_aloud(run_page: Page) -> None:
    assert run_page.open_tags == []
    assert run_page.attributes("html")[0]["lang"] == "en-GB"
    headings = [int(tag[1]) for tag, _ in run_page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(headings))
    ids = [attributes["id"] for _, attributes in run_page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"][1:] for attributes in run_page.attributes("a")]
    assert links[0] == "main"  # the skip link
    assert set(links) <= set(ids)
    assert all(caption for caption in run_page.tables)


def test_every_figure_has_title_description_axes_and_table(report: Report, run_page: Page) -> None:
    figures = report.figures()
    assert len(figures) == 5
    described = [each for each in run_page.attributes("div") if each.get("role") == "img"]
    assert len(described) == len(figures)
    for figure, attributes in zip(figures, described, strict=True):
        assert attributes["aria-label"] == f"{figure.views[0].title}. {figure.description}"
        assert figure.table.caption in run_page.tables
        assert figure.table.rows
        for view in figure.views:
            assert view.title
            for layer in view.spec["layer"]:
                for axis in ("x", "y"):
                    assert layer["encoding"].get(axis, {"title": "-"})["title"]


def test_every_combination_of_a_figures_controls_has_a_view(report: Report) -> None:
    for figure in report.figures():
        number = 1
        for control in figure.controls:
            number *= len(control.options)
        assert len({view.choice for view in figure.views}) == len(figure.views) == number
        first = tuple(control.options[0] for control in figure.controls)
        assert figure.views[0].choice == first


def test_every_view_can_be_drawn(report: Report) -> None:
    for figure in report.figures():
        for view in figure.views:
            svg = vl_convert.vegalite_to_svg(standalone_spec(figure, view))
            assert view.title in svg
            assert "mark-symbol" in svg or "mark-rect" in svg


def test_figures_lie_beside_the_page(finished_run: Path, report: Report) -> None:
    folder = finished_run / "figures"
    expected = {f"{figure.name}.{kind}" for figure in report.figures() for kind in ("png", "svg")}
    assert {file.name for file in folder.iterdir()} == expected
    for figure in report.figures():
        assert figure.views[0].title in (folder / f"{figure.name}.svg").read_text()
        with Image.open(folder / f"{figure.name}.png") as image:
            assert image.width > 1000
            assert image.convert("L").getextrema()[0] < 100
            assert image.getpixel((2, 2))[:3] == (255, 255, 255)


def test_the_page_holds_its_data_once(run_page: Page, report: Report) -> None:
    figures = run_page.data["figures"]
    assert set(figures) == {figure.name for figure in report.figures()}
    for figure in report.figures():
        assert figures[figure.name]["datasets"] == json.loads(json.dumps(dict(figure.datasets)))
        assert not any("datasets" in view["spec"] for view in figures[figure.name]["views"])


def test_a_report_of_the_same_files_is_the_same(finished_run: Path, tmp_path: Path) -> None:
    again = build_report(finished_run, tmp_path / "again.html")
    assert again.read_text() == (finished_run / "report.html").read_text()


def test_names_never_become_markup(hostile_run: Path) -> None:
    source = (hostile_run / "report.html").read_text()
    page = read_page(hostile_run / "report.html")
    assert not page.attributes("img")
    assert len(page.attributes("script")) == 3
    assert "<img" not in source.replace(page.scripts[1], "")
    assert f"{HOSTILE} 0" in page.text  # as text, it is all there
    assert "49" not in page.text.split("Words and measures")[0].split("question")[0]
    group = page.data["groups"][0]
    assert group["name"].startswith(HOSTILE)
    assert group["questions"][0]["text"].startswith(HOSTILE)


def test_hostile_names_are_drawn(hostile_run: Path) -> None:
    svg = (hostile_run / "figures" / "groups.svg").read_text()
    assert "<img" not in svg
    assert "&lt;/script" in svg


def test_vega_cannot_end_its_script_early(run_page: Page) -> None:
    assert "</script" not in run_page.scripts[1].lower()
    assert "vegaEmbed" in run_page.scripts[1]


def test_a_report_without_figures_needs_no_vega(report: Report) -> None:
    page = Page(render(Report("Run", "Empty", "Nothing.", []), {}))
    assert len(page.scripts) == 2


def test_a_page_that_cannot_be_written_is_an_error(report: Report, tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write_report(report, tmp_path / "report.html")


def test_figures_in_folded_blocks_count(report: Report) -> None:
    from report.blocks import Folded, Section

    figure = report.figures()[0]
    folded = Report("s", "t", "u", [Section("a", "A", [Folded("more", [figure])])])
    assert folded.figures() == [figure]
    assert isinstance(figure, Figure)
