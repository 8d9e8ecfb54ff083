"""Two real runs, made once: on the synthetic survey, and on one with hostile names."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from report.build import build_report
from server_app.cohort import simulate
from tests.report.pages import Page, read_page
from tests.server_app.in_process_grid import tiny_config

HOSTILE = "</script><img src=x onerror=alert(1)> & \"quoted\" 'names' {{ 7 * 7 }} datum.x"


def write_hostile_survey(path: Path) -> Path:
    """Write a survey in which groups, questions and options would break out of careless HTML."""
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["group", "question", "option", "share"])
        for group in range(4):
            for question in range(24):
                for option, share in enumerate(random.dirichlet(np.ones(3))):
                    text = f"{HOSTILE} question {question}?"
                    rows.writerow([f"{HOSTILE} {group}", text, f"{HOSTILE} {option}", share])
    return path


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLURALLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> Path:
    """A finished run; tests copy it before they change it."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    simulate(tiny_config(run__directory=str(path), data__num_held_out_groups=2))
    build_report(path)
    return path


@pytest.fixture(scope="session")
def run_page(finished_run: Path) -> Page:
    return read_page(finished_run / "report.html")


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    survey = write_hostile_survey(folder / "survey.csv")
    path = folder / "run"
    table = {"data__source": "table", "data__path": str(survey)}
    simulate(tiny_config(run__directory=str(path), train__num_rounds=1, **table))
    build_report(path)
    return path
