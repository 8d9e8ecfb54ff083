import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from task.parameters import Layout
from tests.task.examples import make_predictor

names = st.text("abc.01", min_size=1, max_size=6)
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
special = st.sampled_from([(), (1,), (63,), (64,), (65,), (8, 8), (128,), (2, 65)])
layouts = st.dictionaries(names, shapes | special, min_size=1, max_size=6)

SHAPES = {"b": (3, 2), "a": (65,), "c": (1,)}


def random_parameters(shapes, seed=0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(s, generator=random, dtype=dtype) for name, s in shapes.items()}


@given(layouts)
def test_a_vectors_views_are_the_parameters_that_were_flattened(shapes):
    parameters = random_parameters(shapes)
    layout = Layout.of(shapes)
    vector = layout.flatten(parameters)
    assert vector.shape == (layout.size,)
    views = layout.views(vector)
    assert list(views) == list(shapes)
    for name, parameter in parameters.items():
        assert torch.equal(views[name], parameter)


@given(layouts)
def test_parameters_start_at_multiples_of_64_in_order_without_overlap(shapes):
    layout = Layout.of(shapes)
    end = 0
    for name, shape in shapes.items():
        assert layout.offsets[name] % 64 == 0
        assert 0 <= layout.offsets[name] - end < 64
        end = layout.offsets[name] + math.prod(shape)
    assert 0 <= layout.size - end < 64


@given(layouts)
def test_entries_between_parameters_are_zero(shapes):
    layout = Layout.of(shapes)
    vector = layout.flatten({name: torch.ones(shape) for name, shape in shapes.items()})
    for name, shape in shapes.items():
        vector[layout.offsets[name] : layout.offsets[name] + math.prod(shape)] -= 1
    assert not vector.any()


def test_offsets_of_a_small_layout():
    layout = Layout.of(SHAPES)
    assert layout.offsets == {"b": 0, "a": 64, "c": 192}
    assert layout.size == 256


def test_flattening_copies():
    parameters = random_parameters(SHAPES)
    layout = Layout.of(SHAPES)
    vector = layout.flatten(parameters)
    before = vector.clone()
    parameters["a"].zero_()
    assert torch.equal(vector, before)


def test_views_write_through():
    layout = Layout.of(SHAPES)
    vector = torch.zeros(layout.size)
    layout.views(vector)["b"][2, 1] = 7
    assert vector.nonzero().flatten().tolist() == [5]


def test_a_matrix_has_views_of_all_its_rows():
    layout = Layout.of(SHAPES)
    rows = [random_parameters(SHAPES, seed) for seed in range(3)]
    matrix = torch.stack([layout.flatten(row) for row in rows])
    views = layout.views(matrix)
    assert views["b"].shape == (3, 3, 2)
    for k, row in enumerate(rows):
        for name, parameter in row.items():
            assert torch.equal(views[name][k], parameter)
    views["a"][1, 64] = 9
    assert matrix[1, 64 + 64] == 9


def test_the_order_of_the_parameters_given_does_not_matter():
    parameters = random_parameters(SHAPES)
    layout = Layout.of(SHAPES)
    turned_round = dict(reversed(parameters.items()))
    assert torch.equal(layout.flatten(turned_round), layout.flatten(parameters))


def test_a_vector_has_the_parameters_type_and_no_gradient():
    parameters = {
        name: torch.nn.Parameter(value)
        for name, value in random_parameters(SHAPES, dtype=torch.double).items()
    }
    vector = Layout.of(SHAPES).flatten(parameters)
    assert vector.dtype == torch.double
    assert not vector.requires_grad


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"a": None}, "'a'"),
        ({"new": (2,)}, "'new'"),
        ({"b": (2, 3)}, "'b'"),
        ({"a": (64,)}, "'a'"),
    ],
    ids=["missing", "unknown", "transposed", "shorter"],
)
def test_another_set_of_parameters_is_an_error_that_names_the_one_that_differs(change, named):
    shapes = {name: shape for name, shape in (SHAPES | change).items() if shape is not None}
    with pytest.raises(ValueError, match=named) as error:
        Layout.of(SHAPES).flatten(random_parameters(shapes))
    for other in set(SHAPES) - set(change):
        assert f"'{other}'" not in str(error.value)


def test_a_predictors_parameters_survive_the_vector():
    predictor = make_predictor()
    parameters = dict(predictor.named_parameters())
    layout = Layout.of({name: p.shape for name, p in parameters.items()})
    views = layout.views(layout.flatten(parameters))
    assert list(views) == list(parameters)
    assert all(torch.equal(views[name], parameters[name]) for name in parameters)
