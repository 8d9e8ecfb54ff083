"""Interrupted and continued runs end as uninterrupted ones do."""

import pytest

from server_app.strategies import STRATEGIES
from tests.server_app.cohort_runs import cohort_config
from tests.server_app.interruption import same_when_interrupted

OPTIONS = {"fedtrimmedavg": "beta=0.34", "multikrum": "num-nodes-to-select=2"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_continues_as_if_nothing_had_happened(name: str) -> None:
    config = cohort_config(
        train__num_rounds=4, strategy__name=name, strategy__options=OPTIONS.get(name, "")
    )
    same_when_interrupted(config, server_round=2)
