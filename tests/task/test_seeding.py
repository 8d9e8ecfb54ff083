from hypothesis import given
from hypothesis import strategies as st

from task.seeding import derive_seed, generator


def test_a_seed_is_the_same_on_every_machine():
    assert derive_seed(7, "training episodes", 3, "Nigeria") == 3399371298368469445


def test_every_part_changes_the_seed():
    seeds = [
        derive_seed(0, "context", 1, "A"),
        derive_seed(1, "context", 1, "A"),
        derive_seed(0, "target", 1, "A"),
        derive_seed(0, "context", 2, "A"),
        derive_seed(0, "context", 1, "B"),
        derive_seed(0, "context", 1),
        derive_seed(0, "context", "A", 1),
        derive_seed(0, "context1", "A"),
    ]
    assert len(set(seeds)) == len(seeds)


def test_a_number_and_its_text_are_different_parts():
    assert derive_seed(0, "a", 1) != derive_seed(0, "a", "1")


@given(st.integers(0), st.lists(st.text() | st.integers()))
def test_a_seed_fits_torch_and_numpy(seed, parts):
    assert 0 <= derive_seed(seed, *parts) < 2**63


def test_a_generator_repeats_its_numbers_and_another_purpose_gives_others():
    first = generator(0, "a").random(4).tolist()
    assert generator(0, "a").random(4).tolist() == first
    assert generator(0, "b").random(4).tolist() != first
