"""`score.*`: what is refused, and that a run which scores releases what it did before."""

import pytest

from task import reward_aggregation
from task.config import RunConfig
from task.errors import ConfigError
from task.scoring_config import AGGREGATIONS
from task.settings import Scalar

SCORES: dict[str, Scalar] = {"score.rollouts": "rollouts.csv", "score.predictor": "runs/mine"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score.aggregation": "median"}, "score.aggregation = 'median': expected one of mean, m"),
        ({"score.min-groups": -1}, "score.min-groups = -1: expected an integer >= 0"),
        ({"score.batch-size": 0}, "score.batch-size = 0: expected an integer from 1 to 100000"),
        ({"score.rollouts": "x.csv"}, "score.predictor = '': expected a run directory"),
        (SCORES | {"run.resume": "runs/mine"}, "run.resume = 'runs/mine': expected nothing"),
        (SCORES | {"privacy.unit": "question"}, "privacy.unit = 'question': expected 'none' or"),
        (
            SCORES | {"privacy.unit": "client", "strategy.clipping-norm": 1.0},
            "privacy.unit = 'client': expected 'none' or 'member'",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.from_flat(settings)
    assert message in str(error.value)


def test_unit_member_may_score() -> None:
    RunConfig.from_flat(SCORES | {"privacy.unit": "member", "privacy.noise-multiplier": 1.0})


def test_the_rules_are_those_that_there_are() -> None:
    assert tuple(reward_aggregation.AGGREGATIONS) == AGGREGATIONS


def test_noise_is_drawn_as_for_the_run_that_trained() -> None:
    """Other noise would be another release of the same answers, and cost as much again."""
    assert RunConfig.from_flat(SCORES).release_settings() == RunConfig().release_settings()
