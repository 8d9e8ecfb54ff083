import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from task import config
from task.config import DataConfig, RunConfig, RunSettings, TrainConfig
from task.sources import SOURCES, load_survey

ROOT = Path(__file__).parents[3]
TABLE = "group,question,option,share\nA,Tea?,yes,0.25\nA,Tea?,no,0.75\n"
GLOBAL = (
    "question,selections,options\n"
    "Tea?,\"defaultdict(<class 'list'>, {'A': [0.25, 0.75]})\",\"['yes', 'no']\"\n"
)
PAIRS = "group,prompt,chosen,rejected,weight\nA,Tea?,yes,no,3\nA,Tea?,no,yes,1\n"
RATINGS = "group,user,prompt,response,score\n" + "".join(
    f"A,{user},Tea?,{response},{score}\n"
    for user in range(4)
    for response, score in (("yes", 2 if user else 0), ("no", 1))
)
SMALL = RunConfig(data=DataConfig(synthetic_groups=3, synthetic_questions=10, synthetic_answered=5))


def test_every_source_that_the_config_allows_has_a_loader():
    assert set(SOURCES) == set(config.SOURCES)


@pytest.mark.parametrize(
    ("source", "text"),
    [("table", TABLE), ("global-opinions", GLOBAL), ("pairs", PAIRS), ("ratings", RATINGS)],
    ids=["table", "global-opinions", "pairs", "ratings"],
)
def test_a_file_is_loaded_by_the_loader_of_its_source(tmp_path, source, text):
    path = tmp_path / "survey.csv"
    path.write_text(text)
    survey = load_survey(RunConfig(data=DataConfig(source=source, path=str(path))))
    assert list(survey.answers) == ["A"]
    shares = dict(zip(survey.questions[0].options, survey.answers["A"].shares, strict=True))
    compared = source in config.COMPARISONS
    assert shares == ({"yes": 0.75, "no": 0.25} if compared else {"yes": 0.25, "no": 0.75})


def test_the_synthetic_survey_depends_on_the_seed():
    other = replace(SMALL, run=RunSettings(seed=1))
    assert load_survey(SMALL).questions != load_survey(other).questions
    assert len(load_survey(SMALL).answers) == 3


def test_a_survey_is_loaded_once():
    other = replace(SMALL, train=TrainConfig(num_rounds=1))
    assert load_survey(SMALL) is load_survey(other)


def test_pandas_is_not_imported_before_a_file_is_read():
    code = (
        "import sys; from task.config import RunConfig; from task.sources import load_survey; "
        "load_survey(RunConfig()); print('pandas' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "False"
