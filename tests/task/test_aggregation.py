import math
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from task.aggregation import WeightedSum, clip_update

SIZE = 3
# Floats of very different magnitudes, with weights up to 1000: float64 cannot hold their sums, but
# the pair of float64 does, exactly. Some of them cancel, so that what is small shows.
entries = st.builds(
    lambda mantissa, exponent: mantissa * 2.0**exponent,
    st.integers(-(2**24) + 1, 2**24 - 1),
    st.integers(-54, 6),
)
terms = st.tuples(st.lists(entries, min_size=SIZE, max_size=SIZE), st.integers(1, 1000))
several = st.tuples(st.lists(terms, min_size=1, max_size=5), st.lists(terms, max_size=3)).map(
    lambda drawn: [*drawn[0], *drawn[1], *[([-x for x in values], w) for values, w in drawn[1]]]
)


def bits(tensor):
    assert tensor.dtype == torch.float32
    return tensor.numpy().view(np.uint32).tolist()


def total_of(terms):
    total = WeightedSum(SIZE)
    for values, weight in terms:
        total.add(torch.tensor(values), float(weight))
    return total


def merged(totals):
    first, *others = totals
    for other in others:
        first.merge(other)
    return first


def exact_mean(terms):
    # In rational numbers; rounded, as documented, only at the end: sum, quotient and float32.
    weight = sum(weight for _, weight in terms)
    sums = [sum(Fraction(values[p]) * w for values, w in terms) for p in range(SIZE)]
    return torch.tensor([float(each) / weight for each in sums], dtype=torch.float64).float()


@given(several)
def test_a_mean_equals_the_exact_one_to_the_last_bit(terms):
    assert bits(total_of(terms).mean()) == bits(exact_mean(terms))


@given(st.data(), several)
def test_any_order_and_any_grouping_give_the_same_bits(data, terms):
    expected = bits(total_of(terms).mean())
    shuffled = data.draw(st.permutations(terms))
    assert bits(total_of(shuffled).mean()) == expected
    # Partial sums of parts of the terms, some of them empty, merged in any order.
    cuts = sorted(data.draw(st.lists(st.integers(0, len(terms)), max_size=3)))
    ends = [0, *cuts, len(terms)]
    parts = [shuffled[i:j] for i, j in pairwise(ends)]
    assert bits(merged([total_of(part) for part in parts]).mean()) == expected
    # And as a tree: pairs first.
    pairs = [total_of(shuffled[i : i + 2]) for i in range(0, len(terms), 2)]
    assert bits(merged(pairs[::-1]).mean()) == expected


@pytest.mark.parametrize("spread", [0, 5, 10])
def test_thousands_of_terms_of_different_magnitudes_in_any_order_and_shards(spread):
    random = np.random.default_rng(spread)
    rows = random.normal(size=(3000, 40)) * 10.0 ** random.uniform(-spread, spread, (3000, 40))
    rows[:, :5] *= [1, 0, 1, -1, 1]
    rows = rows.astype(np.float32)
    weights = random.integers(1, 500, 3000)

    def in_shards(order, num_shards):
        shards = [WeightedSum(40) for _ in range(num_shards)]
        for place, k in enumerate(order):
            shards[place % num_shards].add(torch.from_numpy(rows[k]), float(weights[k]))
        return merged(shards)

    one = in_shards(range(3000), 1)
    total = [math.fsum(column) for column in (rows.astype(float) * weights[:, None]).T]
    expected = torch.tensor(total, dtype=torch.float64) / float(weights.sum())
    assert bits(one.mean()) == bits(expected.float())
    for num_shards in (1, 2, 7):
        shards = in_shards(random.permutation(3000), num_shards)
        assert bits(shards.mean()) == bits(one.mean())


def test_a_long_vector_is_summed_entry_by_entry():
    size = 40_001
    random = np.random.default_rng(0)
    rows = random.normal(size=(5, size)) * 10.0 ** random.uniform(-8, 8, (5, size))
    rows = torch.from_numpy(rows).float()
    weights = (3.0, 1.0, 7.0, 2.0, 5.0)
    total, other = WeightedSum(size), WeightedSum(size)
    for k in (3, 0, 4):
        total.add(rows[k], weights[k])
    for k in (2, 1):
        other.add(rows[k], weights[k])
    total.merge(other)
    terms = (rows.double() * torch.tensor(weights, dtype=torch.float64)[:, None]).T.tolist()
    expected = torch.tensor([math.fsum(entry) for entry in terms], dtype=torch.float64) / 18
    assert bits(total.mean()) == bits(expected.float())


def test_terms_that_cancel_leave_what_a_plain_sum_in_float64_would_lose():
    total = WeightedSum(2)
    for value in (2.0**40, 2.0**-30, -(2.0**40)):
        total.add(torch.tensor([value, -value]), 1.0)
    assert 2.0**40 + 2.0**-30 - 2.0**40 == 0
    third = np.float32(2.0**-30 / 3)
    assert total.mean().tolist() == [third, -third]


def test_merging_keeps_what_is_small_in_either_sum():
    def around(large):
        return total_of([([large] * SIZE, 1), ([2.0**-30] * SIZE, 1)])

    total = around(2.0**40)
    total.merge(around(-(2.0**40)))
    assert total.mean().tolist() == [2.0**-29 / 4] * SIZE


def test_weights_weigh():
    total = WeightedSum(2)
    total.add(torch.tensor([1.0, 10.0]), 3.0)
    total.add(torch.tensor([5.0, -2.0]), 1.0)
    assert total.weight == 4
    assert total.mean().tolist() == [2.0, 7.0]


def test_a_term_of_weight_zero_changes_nothing():
    total = total_of([([1.0, 2.0, 3.0], 2)])
    before = bits(total.mean())
    total.add(torch.tensor([7.0, 8.0, 9.0]), 0.0)
    assert bits(total.mean()) == before


def test_the_mean_of_one_client_is_that_client_whatever_its_weight():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0))
    for weight in (1.0, 3.0, 977.0):
        total = WeightedSum(200)
        total.add(values, weight)
        assert torch.equal(total.mean(), values)


def test_asking_for_the_mean_does_not_end_the_sum():
    terms = [([1.0, 2.0, 3.0], 2), ([0.1, 0.2, 0.3], 5)]
    total = total_of(terms[:1])
    total.mean()
    values, weight = terms[1]
    total.add(torch.tensor(values), float(weight))
    assert bits(total.mean()) == bits(total_of(terms).mean())


def test_adding_and_merging_leave_terms_and_the_other_sum_as_they_were():
    values = torch.tensor([1.0, 2.0, 3.0])
    one, other = WeightedSum(SIZE), total_of([([0.5, 0.25, 0.125], 3)])
    one.add(values, 2.0)
    one.merge(other)
    one.add(values, 2.0)
    assert values.tolist() == [1.0, 2.0, 3.0]
    assert other.weight == 3
    assert other.mean().tolist() == [0.5, 0.25, 0.125]


def test_a_sum_moved_to_the_cpu_is_the_same_sum():
    terms = [([2.0**40, 0.1, 1e-9], 3), ([2.0**-20, 0.2, 5.0], 4)]
    assert bits(total_of(terms).cpu().mean()) == bits(total_of(terms).mean())
    more = total_of(terms).cpu()
    more.merge(total_of([([-(2.0**40), 0.3, 0.0], 3)]))
    assert bits(more.mean()) == bits(total_of([*terms, ([-(2.0**40), 0.3, 0.0], 3)]).mean())


@pytest.mark.parametrize("weights", [[], [0.0]])
def test_a_mean_of_nothing_is_an_error(weights):
    total = WeightedSum(SIZE)
    for weight in weights:
        total.add(torch.ones(SIZE), weight)
    with pytest.raises(ZeroDivisionError, match="weight above 0"):
        total.mean()


def norm_of(vector):
    return math.sqrt(math.fsum(float(x) ** 2 for x in vector))


def update_of(start, values):
    return values.double() - start.double()


floats = st.floats(-1e4, 1e4, width=32)
vectors = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.lists(floats, min_size=n, max_size=n)] * 2)
)


@given(vectors, st.floats(1e-3, 1e5))
def test_a_clipped_update_is_bounded_and_keeps_its_direction(pair, limit):
    start, values = (torch.tensor(each) for each in pair)
    clipped = clip_update(start, values, limit)
    update, kept = update_of(start, values), update_of(start, clipped)
    norm = norm_of(update)
    if norm <= limit:
        assert clipped is values
        return
    assert norm_of(kept) <= limit
    # What is returned is rounded to float32, next to a start that may be much larger, and made
    # shorter by as much where that made it longer.
    rounding = 2.0**-24 * norm_of(clipped) + 1e-30
    assert norm_of(kept - update * (limit / norm)) <= 16 * rounding + 1e-6 * limit


def test_a_clipped_update_has_the_norm_it_is_clipped_to():
    start = torch.tensor([1.0, -1.0, 0.5])
    values = start + torch.tensor([3.0, 0.0, 4.0])
    clipped = clip_update(start, values, 1.0)
    torch.testing.assert_close(clipped, start + torch.tensor([0.6, 0.0, 0.8]))


@pytest.mark.parametrize("limit", [5.0, 5.1, math.inf])
def test_an_update_within_the_norm_is_returned_as_it_is(limit):
    start = torch.tensor([0.25, 0.25])
    values = start + torch.tensor([3.0, 4.0])
    assert clip_update(start, values, limit) is values


@pytest.mark.parametrize("size", [1, 1000])
def test_a_zero_update_is_returned_as_it_is(size):
    start = torch.randn(size, generator=torch.Generator().manual_seed(0))
    values = start.clone()
    assert clip_update(start, values, 1e-30) is values


@pytest.mark.parametrize("scale", [2.0**126, 2.0**60, 1.0, 2.0**-60, 2.0**-149])
def test_huge_and_tiny_updates_are_clipped_without_overflow_or_underflow(scale):
    start, values = torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, 1.0]) * scale
    assert norm_of(values) == 2 * scale
    assert clip_update(start, values, 2 * scale) is values
    clipped = clip_update(start, values, 1e-3 * 2 * scale)
    torch.testing.assert_close(clipped, values * 1e-3, rtol=1e-6, atol=2.0**-149)


def test_an_update_beyond_the_largest_float32_is_clipped():
    start, values = torch.tensor([-3e38]), torch.tensor([3e38])
    assert clip_update(start, values, 1e38).item() == pytest.approx(-2e38)


def test_a_single_entry_is_clipped_to_the_norm():
    assert clip_update(torch.tensor([1.0]), torch.tensor([-7.0]), 2.0).tolist() == [-1.0]


def test_clipping_changes_neither_argument():
    start, values = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 9.0])
    clip_update(start, values, 0.1)
    assert start.tolist() == [1.0, 2.0]
    assert values.tolist() == [5.0, 9.0]


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_clipping_gives_the_same_bits_however_many_threads_torch_has():
    random = torch.Generator().manual_seed(0)
    # In float64, where the last bit of the norm shows.
    start, update = torch.randn(2, 300_001, generator=random, dtype=torch.float64)
    results = []
    for number in (1, 2, 3, 4):
        with threads(number):
            results.append(clip_update(start, start + update, 1.25))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_clipping_norm_that_is_not_above_zero_is_an_error(limit):
    with pytest.raises(ValueError, match=r"clipping_norm = .*above 0"):
        clip_update(torch.zeros(2), torch.ones(2), limit)


@given(vectors, st.floats(1e-6, 1e5))
def test_no_rounding_takes_an_update_beyond_the_norm(pair, limit):
    # Clipped in float64 and rounded, it would exceed the sensitivity that noise is made for.
    start, values = (torch.tensor(each) for each in pair)
    assert norm_of(update_of(start, clip_update(start, values, limit))) <= limit * (1 + 1e-14)


@pytest.mark.parametrize("seed", range(40))
def test_any_update_can_be_clipped_however_coarse_the_parameters_are(seed):
    random = torch.Generator().manual_seed(seed)
    for scale in (1e-3, 1.0, 300.0, 1e6, 1e30):
        start = torch.randn(16, generator=random) * scale
        values = start + 2 * torch.randn(16, generator=random) * max(1.0, scale * 1e-3)
        clipped = clip_update(start, values, 0.25)
        assert norm_of(update_of(start, clipped)) <= 0.25
        if scale <= 1:
            assert norm_of(update_of(start, clipped)) > 0.2499


def test_an_update_that_is_not_finite_cannot_be_clipped():
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            clip_update(torch.zeros(2), torch.tensor([0.0, value]), 1.0)
