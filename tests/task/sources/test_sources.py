import subprocess
import sys
from pathlib import Path

import pytest

from task import config
from task.config import DataConfig
from task.sources import SOURCES, load_survey

ROOT = Path(__file__).parents[3]
TABLE = "group,question,option,share\nA,Tea?,yes,0.25\nA,Tea?,no,0.75\n"
GLOBAL = (
    "question,selections,options\n"
    "Tea?,\"defaultdict(<class 'list'>, {'A': [0.25, 0.75]})\",\"['yes', 'no']\"\n"
)


def test_every_source_that_the_config_allows_has_a_loader():
    assert set(SOURCES) == set(config.SOURCES)


@pytest.mark.parametrize(
    ("source", "text"),
    [("table", TABLE), ("global-opinions", GLOBAL)],
    ids=["table", "global-opinions"],
)
def test_a_file_is_loaded_by_the_loader_of_its_source(tmp_path, source, text):
    path = tmp_path / "survey.csv"
    path.write_text(text)
    survey = load_survey(DataConfig(source=source, path=str(path)), 0)
    assert list(survey.answers) == ["A"]
    assert survey.answers["A"].distribution(0).tolist() == [0.25, 0.75]


def test_the_synthetic_survey_depends_on_the_seed():
    data = DataConfig(synthetic_groups=3, synthetic_questions=10, synthetic_answered=5)
    assert load_survey(data, 0).questions != load_survey(data, 1).questions
    assert len(load_survey(data, 0).answers) == 3


def test_a_survey_is_loaded_once():
    data = DataConfig(synthetic_groups=3, synthetic_questions=10, synthetic_answered=5)
    assert load_survey(data, 0) is load_survey(data, 0)


def test_pandas_is_not_imported_before_a_file_is_read():
    code = (
        "import sys; from task.config import DataConfig; from task.sources import load_survey; "
        "load_survey(DataConfig(), 0); print('pandas' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "False"
