"""Rounds of rules that weigh groups, by hand and in a slow loop beside the real ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from server_app.strategies import make_strategy
from server_app.strategies.group_weighting import GroupResult, GroupWeighting
from task import records
from task.config import RunConfig
from tests.server_app.in_process_grid import InProcessGrid, tiny_config
from tests.server_app.training import (
    Parameters,
    cohorts,
    local_updates,
    reports_of,
    start_of,
    train_federated,
    weighted_average,
)

Weigh = Callable[[Mapping[str, float]], Mapping[str, float]]
"""What each group of a round reports to how much it counts; called round after round."""


def result(group: str, values: Sequence[float] = (0.0,), **reports: float) -> GroupResult:
    """What a group's clients gave in a round; reports by their names with underscores."""
    named = {name.replace("_", "-"): value for name, value in reports.items()}
    return GroupResult(group, 1.0, named, torch.tensor(values, dtype=torch.float64))


def weights_of(rule: GroupWeighting, report: str, **reported: float) -> list[float]:
    """The weights of a round in which these groups report this."""
    groups = [GroupResult(g, 1.0, {report: r}, torch.zeros(1)) for g, r in reported.items()]
    weights = rule.weigh(groups)
    assert abs(weights.sum() - 1) < 1e-12
    return weights.tolist()


def losses(rule: GroupWeighting, **reported: float) -> list[float]:
    """The weights of a round in which these groups report these losses."""
    return weights_of(rule, records.LOSS_BEFORE, **reported)


def spread(weights: Mapping[str, float]) -> float:
    return max(weights.values()) - min(weights.values())


def three_of_five(name: str, options: str, **changes: Any) -> RunConfig:
    """Three rounds in each of which three of five groups take part."""
    chosen: dict[str, Any] = {
        "strategy__name": name,
        "strategy__options": options,
        "data__synthetic_groups": 6,
        "train__clients_per_round": 3,
        "train__num_rounds": 3,
        "train__learning_rate": 0.02,
    }
    return tiny_config(**chosen | changes)


def run(config: RunConfig) -> tuple[Parameters, list[list[str]], list[dict[str, float]]]:
    """The real thing: parameters, who took part in each round, and how much each counted."""
    grid = InProcessGrid(config)
    rule = make_strategy(config)
    weights: list[dict[str, float]] = []
    parameters, _ = train_federated(
        grid,
        config,
        strategy=rule,
        num_rounds=config.train.num_rounds,
        after_round=lambda *_: weights.append(dict(rule.group_weights)),
    )
    return parameters, cohorts(grid), weights[1:]


def run_slowly(
    config: RunConfig, asked: Sequence[Sequence[str]], report: str, weigh: Weigh
) -> tuple[Parameters, list[dict[str, float]]]:
    """The same rounds without Flower: what each group reports, a weight for it, the mean."""
    parameters = start_of(config)
    all_weights = []
    for server_round, groups in enumerate(asked, 1):
        reported = reports_of(config, groups, report, parameters)
        weights = weigh(dict(zip(groups, reported, strict=True)))
        updates = local_updates(config, groups, start=parameters, server_round=server_round)
        mean = weighted_average(updates, [weights[group] for group in groups])
        parameters = {name: values.astype(np.float32) for name, values in mean.items()}
        all_weights.append(dict(weights))
    return parameters, all_weights


def assert_same_rounds(config: RunConfig, report: str, weigh: Weigh) -> list[dict[str, float]]:
    """The rule gives what the slow loop does; return the rounds' weights."""
    parameters, asked, weights = run(config)
    assert len({tuple(groups) for groups in asked}) > 1  # groups are missing, and newcomers come
    expected, expected_weights = run_slowly(config, asked, report, weigh)
    for found, wanted in zip(weights, expected_weights, strict=True):
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose(
            [found[g] for g in wanted], list(wanted.values()), rtol=1e-3, atol=1e-5
        )
    for name, values in parameters.items():
        # a round moves parameters by about 0.04
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=2e-4, err_msg=name)
    return weights
