import math
from pathlib import Path

import numpy as np
import pytest
import torch

from task.config import RunConfig
from task.errors import BudgetError
from task.evaluation import evaluate_group
from task.metrics import SCORE_RANGE, Mean, alignment_score
from task.private_scoring import noisy_score
from task.question_ledger import QuestionLedger, history_epsilon
from tests.task.examples import make_group, make_predictor

RANGE = 1 - 0.16744538

GROUPS = [
    make_group([2, 3] * 8, held_back=[3, 7], group="Trains"),
    make_group([2, 3] * 8, role="held-out", group="Held out"),
]


def config_of(**changes):
    flat = {
        "privacy.unit": "question",
        "privacy.metrics": "noisy",
        "privacy.metrics-noise-multiplier": 4.0,
        "privacy.accountant": "rdp",
        "evaluation.num-context": 3,
    }
    return RunConfig.from_flat(
        flat | {f"privacy.{k.replace('_', '-')}": value for k, value in changes.items()}
    )


class Free(QuestionLedger):
    """A ledger that knows of no cost: `attempt` is given."""

    def __init__(self, attempt):
        self.attempt = attempt

    def charge(self, group, release):
        return self.attempt


def score(ledger, config, data=GROUPS[0], server_round=1, predictor=None):
    if isinstance(ledger, Path):
        ledger = QuestionLedger(ledger, config.privacy)
    return noisy_score(
        predictor or make_predictor(), data, config, server_round=server_round, ledger=ledger
    )


def test_the_range_is_that_of_an_alignment_score():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert pytest.approx((1 - RANGE, 1)) == SCORE_RANGE
    assert float(alignment_score(one, other)) == pytest.approx(SCORE_RANGE[0])
    assert float(alignment_score(one, one)) == 1


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("data", GROUPS, ids=lambda data: data.group)
def test_a_noisy_score_is_the_score_with_the_noise_that_is_charged(
    tmp_path: Path, monkeypatch, data, secure
):
    config = config_of(secure_noise=secure)
    scored = evaluate_group(
        make_predictor(), data, config.evaluation, 0, np.empty(0, dtype=np.int64)
    )
    exact = scored.all.value
    monkeypatch.setattr("task.private_scoring.evaluate_group", lambda *_: scored)
    scores = [score(Free(attempt), config, data) for attempt in range(400)]
    assert np.std(scores) == pytest.approx(4 * RANGE, rel=0.15)
    assert np.mean(scores) == pytest.approx(exact, abs=4 * 4 * RANGE / math.sqrt(400))
    ledger = QuestionLedger(tmp_path, config.privacy)
    for server_round in (0, 2):
        score(ledger, config, data, server_round)
    assert ledger.epsilon(data.group) == history_epsilon(((4.0, 1.0, 2),), 1e-5, "rdp")


def test_a_tiny_multiplier_shows_the_score_itself(tmp_path: Path):
    config = config_of(metrics_noise_multiplier=1e-9)
    exact = evaluate_group(
        make_predictor(), GROUPS[0], config.evaluation, 0, np.empty(0, dtype=np.int64)
    ).all.value
    assert score(tmp_path, config) == pytest.approx(exact, abs=1e-6)


def test_asked_again_it_says_the_same_and_asked_for_anything_else_it_is_charged(tmp_path: Path):
    config = config_of()
    first = score(tmp_path, config)
    assert score(tmp_path, config) == first
    statistics = make_predictor()
    statistics.feature_mean += 1
    others = [
        score(tmp_path, config, predictor=make_predictor(seed=1)),
        score(tmp_path, config, predictor=statistics),
        score(tmp_path, config, server_round=2),
    ]
    assert len({round(each, 3) for each in [first, *others]}) == 4
    assert len(QuestionLedger(tmp_path, config.privacy).load("Trains")) == 4


def test_what_overflows_stays_within_the_range(tmp_path: Path, monkeypatch):
    config = config_of(metrics_noise_multiplier=1e-9)
    for number, (value, expected) in enumerate(
        [(math.nan, 1 - RANGE), (math.inf, 1.0), (-math.inf, 1 - RANGE), (7.0, 1.0)]
    ):
        scored = type("Scores", (), {"all": Mean(value, 1.0)})
        monkeypatch.setattr("task.private_scoring.evaluate_group", lambda *_, s=scored: s)
        assert score(tmp_path, config, server_round=number) == pytest.approx(expected, abs=1e-6)


def test_scoring_stops_at_the_budget_before_anything_is_computed(tmp_path: Path, monkeypatch):
    config = config_of(max_epsilon=0.5)
    monkeypatch.setattr("task.private_scoring.evaluate_group", None)
    with pytest.raises(BudgetError, match="to evaluate in round 1 would take group 'Trains'"):
        score(tmp_path, config)
    assert not QuestionLedger(tmp_path, config.privacy).load("Trains")
