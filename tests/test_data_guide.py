"""docs/data.md: its files are read as it says, its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from cli.settings import parse_settings
from task.config import DataConfig, RunConfig
from task.sources import load_survey
from task.survey import Survey

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "data.md").read_text()
PAIRS, RATINGS = re.findall(r"```csv\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [
    shlex.split(block.replace("\\\n", " "))
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
]
YES, NO = "Yes. It is clean.", "No. It costs too much."


def load(folder: Path, source: str, text: str) -> Survey:
    (folder / "file.csv").write_text(text)
    return load_survey(RunConfig(data=DataConfig(source=source, path=str(folder / "file.csv"))))


def test_the_example_of_comparisons_gives_the_shares_that_it_says(tmp_path: Path) -> None:
    survey = load(tmp_path, "pairs", PAIRS)
    (question,) = survey.questions
    shares = dict(zip(question.options, survey.answers["North"].shares.tolist(), strict=True))
    assert shares == {YES: 0.75, NO: 0.25}


def test_the_example_of_ratings_gives_the_comparisons_that_it_says(tmp_path: Path) -> None:
    survey = load(tmp_path, "ratings", RATINGS)
    answers = survey.answers["North"]
    assert answers.counts is not None
    assert answers.counts.sum() == 3
    assert survey.dropped == {"pairs of responses with equal scores": 1}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_commands_settings_are_settings(command: list[str]) -> None:
    words = [word for word in command if "=" in word or word.startswith("conf/")]
    assert parse_settings([str(ROOT / w) if w.startswith("conf/") else w for w in words])
    assert all((ROOT / word).is_file() for word in command if word.startswith(("conf/", "bench")))


def test_every_link_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in GUIDE.splitlines()
        if line.startswith("#")
    }
    for link in re.findall(r"\]\((?!http)([^)]+)\)", GUIDE):
        file, _, anchor = link.partition("#")
        assert (ROOT / "docs" / file).exists() if file else anchor in headings
