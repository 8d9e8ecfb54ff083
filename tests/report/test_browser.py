"""The pages in a real browser: phone and desktop, light and dark."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from report.comparison_report import comparison_report
from report.page import write_report
from tests.report.fake_results import fake_results
from tests.report.pages import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

PROBE = """
<script>
addEventListener("load", () => setTimeout(async () => {
  for (const control of document.querySelectorAll(".choice input:not(:checked)")) control.click();
  for (const select of document.querySelectorAll("select")) {
    select.selectedIndex = select.options.length - 1;
    select.dispatchEvent(new Event("change"));
  }
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const root = document.documentElement;
  console.log("PROBE " + JSON.stringify({
    width: root.clientWidth,
    overflow: root.scrollWidth - root.clientWidth,
    undrawn: [...document.querySelectorAll("figure.plot:not([data-drawn])")].map((f) => f.id),
    charts: document.querySelectorAll(".chart svg").length,
    images: document.images.length,
    titles: [...document.querySelectorAll(".figure-title")].map((t) => t.textContent),
    about: document.getElementById("explorer-about").textContent,
    questions: [...document.querySelectorAll(".question")].map((q) => q.textContent),
  }));
}, 3000));
</script>
"""
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--hide-scrollbars", "--virtual-time-budget=20000"),
]


@pytest.fixture(scope="session")
def pages(
    tmp_path_factory: pytest.TempPathFactory, finished_run: Path, hostile_run: Path
) -> dict[str, Path]:
    """Page by name, each with a probe that uses all controls and measures."""
    folder = tmp_path_factory.mktemp("pages")
    results = fake_results(missing=["federated fedavg, seed 3, fold 1"])
    write_report(comparison_report(folder, results, finished_run), folder / "comparison.html")
    sources = {
        "run": finished_run / "report.html",
        "hostile": hostile_run / "report.html",
        "comparison": folder / "comparison.html",
    }
    probed = {}
    for name, source in sources.items():
        probed[name] = folder / f"{name}-probed.html"
        before, end, after = source.read_text().rpartition("</body>")
        probed[name].write_text(f"{before}{PROBE}{end}{after}")
    return probed


def browse(page: Path, width: int, scheme: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what the probe saw, and what else was written to the console; take a picture."""
    # A window cannot be as narrow as a phone, a frame can.
    frame = f'<iframe src="{page.as_uri()}" width="{width}" height="900" style="border:0">'
    (folder / "frame.html").write_text(f'<body style="margin:0">{frame}</iframe>')
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1280,900", f"--screenshot={folder / 'page.png'}"]
    if scheme == "dark":
        command.append("--blink-settings=preferredColorScheme=0")
    done = subprocess.run(
        [*command, (folder / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    probes = [line for line in console if "PROBE" in line]
    assert len(probes) == 1, console
    seen, _ = json.JSONDecoder().raw_decode(probes[0].partition("PROBE ")[2])
    return seen, [line for line in console if "PROBE" not in line]


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("run", 1280, "light"),
        ("run", 390, "dark"),
        ("comparison", 390, "light"),
        ("comparison", 1280, "dark"),
        ("hostile", 390, "light"),
    ],
)
def test_all_figures_are_drawn_and_nothing_overflows(
    pages: dict[str, Path], tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    seen, console = browse(pages[name], width, scheme, tmp_path)
    assert console == []
    assert (seen["width"], seen["overflow"]) == (width, 0)
    assert seen["undrawn"] == []
    assert seen["charts"] == len(seen["titles"]) >= 5
    assert seen["images"] == 0
    assert seen["questions"]
    with Image.open(tmp_path / "page.png") as picture:
        grey = picture.convert("L").crop((0, 0, width, 900))
        assert (grey.getpixel((2, 2)) > 240) == (scheme == "light")
        assert grey.getextrema()[1] - grey.getextrema()[0] > 150  # something stands on it


def test_the_browser_shows_what_was_picked(pages: dict[str, Path], tmp_path: Path) -> None:
    seen, _ = browse(pages["run"], 1280, "light", tmp_path)
    last = Page(pages["run"].read_text()).data["groups"][-1]
    assert f"{last['name']}: {last['role']} group, {last['targets']} target" in seen["about"]
    assert len(seen["questions"]) == len(last["questions"])
    for text, question in zip(seen["questions"], last["questions"], strict=True):
        assert question["text"] in text
        assert f"{100 * question['true'][0]:.1f} %" in text
    assert seen["titles"][0].startswith("Alignment score of training groups over traffic")
