from contextlib import closing

import pytest

from server_app.cohort import CohortGrid
from server_app.strategies import STRATEGIES
from tests.server_app.in_process_grid import InProcessGrid, tiny_config
from tests.server_app.training import identical, train_federated


def train_with_cohort(config, **options):
    with closing(CohortGrid(config)) as grid:
        return train_federated(grid, config, **options)


@pytest.mark.parametrize("clipping_norm", [0.0, 0.02])
@pytest.mark.parametrize("name", STRATEGIES)
def test_parameters_equal_those_of_the_real_client_app_bit_for_bit(name, clipping_norm):
    changes = {"strategy__proximal_mu": 5.0} if name == "fedprox" else {}
    config = tiny_config(
        strategy__name=name,
        strategy__clipping_norm=clipping_norm,
        engine__stack_size=1,
        engine__num_threads=2,
        **changes,
    )
    called, _ = train_federated(InProcessGrid(config), config, num_rounds=3)
    computed, _ = train_with_cohort(config, num_rounds=3)
    assert identical(called, computed)
