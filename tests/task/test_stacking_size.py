import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from task import stacking_size
from task.config import EngineConfig, PredictorSettings, RunConfig
from task.predictor import PreferencePredictor
from task.stacking_size import MAX_STACK, stack_size
from tests.task.examples import SMALL

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LIGHT, HEAVY = RunConfig(predictor=SMALL), RunConfig()
GIB = 2.0**30


@pytest.fixture(autouse=True)
def plenty(monkeypatch):
    give(monkeypatch, 1e18)


def give(monkeypatch, free):
    monkeypatch.setattr(stacking_size, "_free_bytes", lambda device: free)


def test_clients_whose_products_are_small_are_stacked_as_far_as_sizes_go():
    assert stack_size(20, LIGHT, CPU) == MAX_STACK


def test_heavy_clients_are_computed_one_by_one_on_a_cpu():
    assert stack_size(300, HEAVY, CPU) == 1
    assert stack_size(1e9, HEAVY, CPU) == 1


def test_heavy_clients_are_stacked_on_a_gpu():
    assert stack_size(300, HEAVY, CUDA) == MAX_STACK


def test_the_larger_the_clients_the_fewer_are_stacked():
    config = RunConfig(predictor=PredictorSettings(width=32))
    sizes = [stack_size(tokens, config, CPU) for tokens in (5, 20, 40, 100, 400, 1000)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) >= 4
    # As many as keep a layer's product, 2 * tokens * 32 * 32 operations each, below what pays.
    size = stack_size(100, config, CPU)
    product = 2 * 100 * 32 * 32
    assert size * product <= stacking_size.PAYING_FLOPS < (size + 1) * product


def test_stacks_too_small_to_gain_are_not_made_on_a_cpu():
    config = RunConfig(predictor=PredictorSettings(width=32))
    sizes = {stack_size(tokens, config, CPU) for tokens in range(50, 5000, 10)}
    assert min(sizes) == 1
    assert min(sizes - {1}) == stacking_size.MIN_STACK


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_setting_decides_if_there_is_one(monkeypatch, size, device, training):
    config = RunConfig(predictor=SMALL, engine=EngineConfig(stack_size=size))
    for tokens, free in ((1, 1e18), (1e6, 0.0)):
        give(monkeypatch, free)
        assert stack_size(tokens, config, device, 8, training=training) == size


@pytest.mark.parametrize("config", [LIGHT, HEAVY], ids=["light", "heavy"])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_there_is_always_at_least_one(monkeypatch, config, device, training):
    give(monkeypatch, 0.0)
    assert stack_size(100, config, device, 16, training=training) == 1


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_memory_limits_the_stack(monkeypatch, device, training):
    sizes = []
    for free in (1e3, 1e8, 2e8, 1e9, 1e10, 1e12):
        give(monkeypatch, free)
        sizes.append(stack_size(200, LIGHT, device, training=training))
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, stack_size(200, LIGHT, device, training=training))
    assert len(set(sizes)) >= 4
    assert sizes[2] == pytest.approx(2 * sizes[1], abs=1)


def test_threads_share_the_memory(monkeypatch):
    give(monkeypatch, GIB)
    one = stack_size(200, LIGHT, CPU, 1)
    assert 8 < one < MAX_STACK
    assert stack_size(200, LIGHT, CPU, 4) == pytest.approx(one / 4, abs=1)


@given(st.floats(1, 1e5), st.floats(0, 1e12), st.sampled_from([LIGHT, HEAVY]))
def test_scoring_needs_no_more_memory_than_training(tokens, free, config):
    with pytest.MonkeyPatch.context() as patch:
        give(patch, free)
        trained = stack_size(tokens, config, CUDA)
        assert 1 <= trained <= stack_size(tokens, config, CUDA, training=False) <= MAX_STACK


def test_scoring_needs_less_memory_than_training(monkeypatch):
    give(monkeypatch, 4 * GIB)
    assert stack_size(300, HEAVY, CUDA) < stack_size(300, HEAVY, CUDA, training=False)


@pytest.mark.parametrize("settings", [SMALL, PredictorSettings()], ids=["small", "default"])
def test_parameters_gradients_and_moments_fit_into_the_memory(monkeypatch, settings):
    predictor = PreferencePredictor.of(settings, 4096)
    each = 4 * sum(parameter.numel() for parameter in predictor.parameters())
    for free in (0.1 * GIB, GIB, 16 * GIB):
        give(monkeypatch, free)
        size = stack_size(1, RunConfig(predictor=settings), CUDA)
        assert size == 1 or size * 4 * each <= free


def test_the_free_memory_of_the_machine_is_known(monkeypatch):
    monkeypatch.undo()
    assert stack_size(20, LIGHT, CPU) >= 1
    assert stacking_size._free_bytes(CPU) > 1e6
