import numpy as np
import pytest

from alignment.config import AlignConfig
from benchmarks import minority
from benchmarks.minority import by_role, majority_and_minority

SHARES = {"A": 0.1, "B": 0.15, "C": 0.9, "D": 0.2, "E": 0.5}  # of the first of two options


class Predictions:
    def distributions(self, questions, *, group):
        share = SHARES[group]
        return [np.array([share, 1 - share]) for _ in questions]


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(minority, "load_rewards", lambda *_: (Predictions(), None, tuple(SHARES)))
    return AlignConfig.parse(
        ["reward.path=here", "data.synthetic-questions=10", "data.synthetic-answered=5"]
    )


def test_the_minority_is_farthest_from_groups_that_agree(config):
    assert majority_and_minority(config, 3) == {
        "A": "majority 1",
        "B": "majority 2",
        "D": "majority 3",
        "C": "minority",
    }


def test_metrics_name_groups_by_role():
    metrics = {
        "base": {"groups": {"C": 0.5, "A": 0.6}, "worst": 0.5},
        "targets": {"group:C": {"groups": ["C"], "alignment": {"groups": {"C": 0.7}}}, "mean": {}},
    }
    assert by_role(metrics, {"C": "minority", "A": "majority 1"}) == {
        "base": {"groups": {"minority": 0.5, "majority 1": 0.6}, "worst": 0.5},
        "targets": {
            "group:minority": {"groups": ["C"], "alignment": {"groups": {"minority": 0.7}}},
            "mean": {},
        },
    }
    assert by_role(metrics, {}) == metrics
