import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from task.compression import BLOCK, compress, decompress
from task.config import CompressionConfig

SUBNORMAL = float(np.finfo(np.float32).smallest_subnormal)
BFLOAT16, INT8 = CompressionConfig(name="bfloat16"), CompressionConfig(name="int8")


def top_k(fraction):
    return CompressionConfig(name="top-k", top_k_fraction=fraction)


def random_update(size, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


def through(update, config, seed=0):
    compressed = compress(update, config, np.random.default_rng(seed))
    return decompress(compressed, len(update))


def bits(array):
    assert array.dtype == np.float32
    return array.view(np.uint32).tolist()


def assert_torchs_bfloat16(update):
    (sent,) = compress(update, BFLOAT16, np.random.default_rng(0)).values()
    rounded = torch.from_numpy(update).to(torch.bfloat16)
    assert sent.dtype == np.uint16
    assert sent.tolist() == rounded.view(torch.uint16).tolist()
    received = decompress({"bfloat16": sent}, len(update))
    assert bits(received) == bits(rounded.float().numpy())


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_bfloat16_is_torchs(values):
    assert_torchs_bfloat16(np.array(values, dtype=np.float32))


def test_bfloat16_is_torchs_for_every_kept_pattern_with_and_near_a_tie():
    kept = np.arange(2**16, dtype=np.uint32) << 16
    for dropped in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        update = (kept + np.uint32(dropped)).view(np.float32)
        assert_torchs_bfloat16(update[np.isfinite(update)])


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2**-8, 1.0),  # a tie: to even, down
        (1 + 3 * 2**-8, 1 + 2 * 2**-7),  # a tie: to even, up
        (1 + 2**-8 + 2**-20, 1 + 2**-7),
        (-(1 + 2**-8), -1.0),
        (-0.0, -0.0),
        (SUBNORMAL, 0.0),
        (2.0**-130, 2.0**-130),
        (2.0**127, 2.0**127),
    ],
)
def test_bfloat16_rounds_to_the_nearest_and_ties_to_even(value, rounded):
    received = through(np.array([value], dtype=np.float32), BFLOAT16)
    assert bits(received) == bits(np.array([rounded], dtype=np.float32))


def test_int8_is_unbiased():
    update = random_update(2 * BLOCK + 44, scale=3.0)
    runs = np.array([through(update, INT8, seed) for seed in range(2000)], dtype=np.float64)
    errors = (runs - update).mean(axis=0)
    # Rounding up with probability p deviates by sqrt(p (1 - p)) steps.
    step = compress(update, INT8, np.random.default_rng(0))["scale"].astype(np.float64)
    step = np.repeat(step, BLOCK)[: len(update)]
    p = update / step - np.floor(update / step)
    standard_errors = step * np.sqrt(p * (1 - p) / 2000)
    assert np.all(np.abs(errors) <= 4 * standard_errors + 1e-5 * step)
    assert abs(np.mean(errors / step)) < 4 * 0.5 / np.sqrt(2000 * len(update))


ordinary = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: not 0 < abs(x) < 2.0**-100)


@given(st.lists(ordinary, min_size=1, max_size=2 * BLOCK + 3), st.integers(0, 9))
def test_int8_is_less_than_a_step_of_its_block_off(values, seed):
    update = np.array(values, dtype=np.float32)
    received = through(update, INT8, seed).astype(np.float64)
    for start in range(0, len(update), BLOCK):
        block = update[start : start + BLOCK].astype(np.float64)
        step = np.abs(block).max() / 127
        assert np.abs(received[start : start + BLOCK] - block).max() <= step * (1 + 1e-5)


def test_int8_keeps_whole_steps_and_the_largest_entry():
    update = np.zeros(BLOCK, dtype=np.float32)
    update[:5] = [127, -127, 64, -1, 0]
    for seed in range(50):
        assert through(update, INT8, seed).tolist() == update.tolist()


def test_int8_rounds_a_half_up_as_often_as_down():
    update = np.full(BLOCK * 40, 0.5, dtype=np.float32)
    update[::BLOCK] = 127
    received = through(update, INT8)
    halves = received[np.arange(len(update)) % BLOCK != 0]
    assert set(halves.tolist()) == {0.0, 1.0}
    assert abs(halves.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(halves))


def test_int8_leaves_blocks_of_zeros_zero():
    update = random_update(3 * BLOCK)
    update[BLOCK : 2 * BLOCK] = 0
    with np.errstate(all="raise"):
        received = through(update, INT8)
    assert not received[BLOCK : 2 * BLOCK].any()
    assert received[:BLOCK].any()
    assert received[2 * BLOCK :].any()
    assert not through(np.zeros(10, dtype=np.float32), INT8).any()


def test_int8_a_huge_outlier_spoils_its_block_alone():
    update = random_update(3 * BLOCK)
    spoilt = update.copy()
    spoilt[BLOCK + 7] = 1e20
    plain, received = through(update, INT8), through(spoilt, INT8)
    assert received[BLOCK + 7] == pytest.approx(1e20)
    for block in (slice(0, BLOCK), slice(2 * BLOCK, None)):
        assert bits(received[block]) == bits(plain[block])
    others = np.delete(received[BLOCK : 2 * BLOCK], 7)
    assert set(np.abs(others).tolist()) <= {0.0, np.float32(1e20) / np.float32(127)}


def size_in_bytes(compressed):
    return sum(array.nbytes for array in compressed.values())


def test_int8_is_at_least_3_9_times_smaller_and_bfloat16_twice():
    update = random_update(100_000)
    random = np.random.default_rng(0)
    assert update.nbytes / size_in_bytes(compress(update, INT8, random)) >= 3.9
    assert update.nbytes / size_in_bytes(compress(update, BFLOAT16, random)) == 2


def test_top_k_sends_k_values_and_a_bit_per_entry():
    sent = compress(random_update(1003), top_k(0.1), np.random.default_rng(0))
    assert (sent["values"].dtype, sent["values"].shape) == (np.float32, (100,))
    assert (sent["where"].dtype, sent["where"].shape) == (np.uint8, (126,))


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=70, unique_by=abs),
    st.floats(0.01, 1.0),
)
def test_top_k_keeps_the_entries_of_the_largest_magnitude_as_they_are(values, fraction):
    update = np.array(values, dtype=np.float32)
    k = max(1, round(fraction * len(update)))
    kept = sorted(range(len(update)), key=lambda p: -abs(update[p]))[:k]
    expected = [update[p] if p in kept else 0.0 for p in range(len(update))]
    assert bits(through(update, top_k(fraction))) == bits(np.array(expected, dtype=np.float32))


@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=1, max_size=40))
def test_top_k_of_equal_magnitudes_keeps_k_of_the_largest(values):
    update = np.array(values, dtype=np.float32)
    k = max(1, round(0.4 * len(update)))
    sent = compress(update, top_k(0.4), np.random.default_rng(0))
    assert sorted(np.abs(sent["values"]).tolist()) == sorted(np.abs(update).tolist())[-k:]
    received = decompress(sent, len(update))
    assert np.all((received == update) | (received == 0))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 17, 1001])
def test_top_k_of_everything_is_lossless(size):
    update = random_update(size)
    update[::3] = -0.0
    assert bits(through(update, top_k(1.0))) == bits(update)


def test_top_k_sends_at_least_one_entry():
    update = np.array([0.5, -3.0, 1.0], dtype=np.float32)
    assert through(update, top_k(0.001)).tolist() == [0.0, -3.0, 0.0]


EVERY = pytest.mark.parametrize("config", [BFLOAT16, INT8, top_k(0.3)], ids=lambda c: c.name)


@EVERY
def test_the_same_seed_gives_the_same_bits(config):
    update = random_update(700)
    first, again, other = (
        compress(update, config, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert list(first) == list(again)
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    differs = any(first[name].tobytes() != other[name].tobytes() for name in first)
    assert differs == (config.name == "int8")


@EVERY
def test_compressing_leaves_the_update_as_it_was(config):
    update = random_update(300)
    before = update.copy()
    received = through(update, config)
    received[:] = 0
    assert bits(update) == bits(before)


@EVERY
@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_an_update_of_any_size_comes_back_with_its_size_and_type(config, size):
    received = through(random_update(size), config)
    assert (received.dtype, received.shape) == (np.float32, (size,))


@EVERY
def test_an_update_of_zeros_stays_zero(config):
    with np.errstate(all="raise"):
        assert not through(np.zeros(300, dtype=np.float32), config).any()


@EVERY
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_an_error(config, value):
    update = random_update(300)
    update[299] = value
    with pytest.raises(ValueError, match="not finite"):
        compress(update, config, np.random.default_rng(0))


def test_compressing_by_none_is_an_error():
    with pytest.raises(ValueError, match="'none' compresses nothing"):
        compress(random_update(3), CompressionConfig(), np.random.default_rng(0))


@EVERY
@pytest.mark.parametrize("extra", [{"int4": np.zeros(1, dtype=np.int8)}, {"": np.zeros(1)}])
def test_arrays_of_other_names_are_an_error_that_lists_them(config, extra):
    sent = compress(random_update(300), config, np.random.default_rng(0)) | extra
    with pytest.raises(ValueError, match=r"arrays \[.*\] are no compressed update") as error:
        decompress(sent, 300)
    assert all(repr(name) in str(error.value) for name in sent)


@pytest.mark.parametrize("names", [[], ["int8"], ["values"], ["scale"], ["bfloat16", "int8"]])
def test_missing_or_mixed_arrays_are_an_error(names):
    with pytest.raises(ValueError, match="are no compressed update"):
        decompress({name: np.zeros(3, dtype=np.uint16) for name in names}, 3)


WRONG = {
    "type": lambda array: array.astype(np.float64),
    "byte order": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "longer": lambda array: np.append(array, array[:1]),
    "shorter": lambda array: array[:-1],
    "empty": lambda array: array[:0],
    "dimensions": lambda array: array[None],
    "no dimension": lambda array: np.asarray(array[0]),
}
ARRAYS = {
    "bfloat16": BFLOAT16, "int8": INT8, "scale": INT8, "values": top_k(0.3), "where": top_k(0.3)
}  # fmt: skip
SINGLE_BYTES = ("int8", "where")
CASES = [
    (name, wrong)
    for name in ARRAYS
    for wrong in WRONG
    if wrong != "byte order" or name not in SINGLE_BYTES
]


def sent_by(config):
    return compress(random_update(300), config, np.random.default_rng(0))


@pytest.mark.parametrize(("name", "wrong"), CASES)
def test_an_array_of_another_type_or_size_is_an_error_that_names_it(name, wrong):
    sent = sent_by(ARRAYS[name])
    sent[name] = WRONG[wrong](sent[name])
    counts = name == "values" and wrong in ("longer", "shorter", "empty")
    expected = "another number of values than of places" if counts else f"array '{name}' of"
    with pytest.raises(ValueError, match=expected):
        decompress(sent, 300)


@EVERY
@pytest.mark.parametrize("size", [1, 43, 296, 309, 600])
def test_an_update_of_another_size_is_an_error(config, size):
    with pytest.raises(ValueError, match=r"expected|values than of places"):
        decompress(sent_by(config), size)


@EVERY
def test_the_error_says_what_was_expected(config):
    sent = sent_by(config)
    name = "where" if config.name == "top-k" else config.name
    length = len(sent[name])
    sent[name] = sent[name].astype(np.int64)
    kind = {"bfloat16": "uint16", "int8": "int8", "where": "uint8"}[name]
    with pytest.raises(ValueError, match=rf"is int64 \({length},\), expected {kind} \({length},\)"):
        decompress(sent, 300)
