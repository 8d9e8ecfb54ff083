import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from task.errors import RunDirectoryError
from task.personal import Personal, PersonalStore, train_personal
from task.training import LocalUpdate, train_client
from tests.task.examples import SHORT_EPISODES, make_group, make_predictor

DATA = make_group([2, 3, 4, 2, 5, 3, 2, 2, 3, 4], held_back=[1, 8], group="Northern nurses")
RATES = (0.02, 0.01)
WAYS = ["ditto", "mr-mtl"]


def parameters_of(seed: int) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in make_predictor(seed=seed).named_parameters()}


GLOBAL = {server_round: parameters_of(100 + server_round) for server_round in (1, 2, 3)}


def round_of(
    way: str, store: PersonalStore, server_round: int, mu: float = 0.5, **changes: object
) -> LocalUpdate:
    """A round of personal training from that round's global parameters."""
    options = {"data": DATA, "predictor": make_predictor()} | changes
    return train_personal(
        way,
        options["predictor"],
        GLOBAL[server_round],
        options["data"],
        store,
        proximal_mu=mu,
        server_round=server_round,
        config=SHORT_EPISODES,
        learning_rates=RATES,
        seed=3,
    )


def plainly(start: dict[str, torch.Tensor], server_round: int, **options: object) -> LocalUpdate:
    return train_client(
        make_predictor(), start, DATA, SHORT_EPISODES, learning_rates=RATES, seed=3,
        server_round=server_round, **options,
    )  # fmt: skip


def same(left: object, right: object) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


def distance(left: object, right: object) -> float:
    return math.sqrt(sum(float((left[n] - right[n]).square().sum()) for n in left))


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_own_parameters_go_on_from_their_own_and_are_drawn_to_the_rounds_global_ones(
    tmp_path: Path, way: str
) -> None:
    store = PersonalStore(tmp_path)
    round_of(way, store, 1)
    first = plainly(GLOBAL[1], 1, proximal_mu=0.5, anchor=GLOBAL[1]).parameters
    assert same(store.load(DATA.group).parameters, first)
    round_of(way, store, 2)
    second = plainly(first, 2, proximal_mu=0.5, anchor=GLOBAL[2]).parameters
    assert same(store.load(DATA.group).parameters, second)
    # neither other starts nor other anchors give these
    assert not same(second, plainly(GLOBAL[2], 2, proximal_mu=0.5, anchor=GLOBAL[2]).parameters)
    assert not same(second, plainly(first, 2, proximal_mu=0.5, anchor=GLOBAL[1]).parameters)


def test_dittos_reply_is_the_global_parameters_trained_as_if_nothing_was_personal(
    tmp_path: Path,
) -> None:
    store = PersonalStore(tmp_path)
    for server_round in (1, 2):
        sent = round_of("ditto", store, server_round, mu=50.0)
        expected = plainly(GLOBAL[server_round], server_round)
        assert same(sent.parameters, expected.parameters)
        assert (sent.loss, sent.num_examples) == (expected.loss, 8)


def test_mr_mtls_reply_is_the_groups_own(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    for server_round in (1, 2):
        sent = round_of("mr-mtl", store, server_round)
        assert same(sent.parameters, store.load(DATA.group).parameters)
        assert sent.num_examples == 8


def test_a_large_mu_pulls_own_parameters_to_the_global_ones(tmp_path: Path) -> None:
    """From one start, ten steps; Adam's steps towards the anchor are of fixed length."""
    far = {name: value + 0.05 for name, value in GLOBAL[1].items()}
    apart = []
    for mu in (0.0, 1e4):
        store = PersonalStore(tmp_path / str(mu))
        store.save(DATA.group, Personal(far, None, 0))
        train_personal(
            "ditto", make_predictor(), GLOBAL[1], DATA, store, proximal_mu=mu, server_round=1,
            config=SHORT_EPISODES, learning_rates=(0.01,) * 10, seed=3,
        )  # fmt: skip
        apart.append(distance(store.load(DATA.group).parameters, GLOBAL[1]))
    assert apart[1] < 0.5 * apart[0]


def test_without_mu_own_parameters_are_those_of_local_training(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    round_of("ditto", store, 1, mu=0.0)
    round_of("ditto", store, 2, mu=0.0)
    first = plainly(GLOBAL[1], 1).parameters
    assert same(store.load(DATA.group).parameters, plainly(first, 2).parameters)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rounds", [(1,), (1, 2), (1, 3)])
def test_a_round_that_is_asked_for_again_gives_the_same(
    tmp_path: Path, way: str, rounds: tuple[int, ...]
) -> None:
    store = PersonalStore(tmp_path)
    sent = [round_of(way, store, server_round) for server_round in rounds][-1]
    kept = store.load(DATA.group)
    for _ in range(2):
        again = round_of(way, store, rounds[-1])
        assert same(again.parameters, sent.parameters)
        assert again.loss == sent.loss
        assert same(store.load(DATA.group).parameters, kept.parameters)


@pytest.mark.parametrize("way", WAYS)
def test_a_later_store_in_the_same_folder_goes_on_where_the_first_was(
    tmp_path: Path, way: str
) -> None:
    one = PersonalStore(tmp_path / "one")
    for server_round in (1, 2):
        round_of(way, one, server_round)
        round_of(way, PersonalStore(tmp_path / "two"), server_round)
    left, right = (PersonalStore(tmp_path / n).load(DATA.group) for n in ("one", "two"))
    assert same(left.parameters, right.parameters)
    assert left.server_round == 2


def test_another_way_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="personal = 'apfl': expected 'ditto' or 'mr-mtl'"):
        round_of("apfl", PersonalStore(tmp_path), 1)
    assert list(tmp_path.iterdir()) == []


# -- the store -------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path / "not" / "there")
    assert store.load("A") is None
    assert not (tmp_path / "not").exists()
    store.save("A", Personal(GLOBAL[1], None, 1))
    assert store.load("A").before is None
    store.save("A", Personal(GLOBAL[2], GLOBAL[1], 2))
    kept = store.load("A")
    assert same(kept.parameters, GLOBAL[2])
    assert same(kept.before, GLOBAL[1])
    assert kept.server_round == 2
    assert [file.name for file in (tmp_path / "not" / "there").iterdir()] == [store.file("A").name]


def test_groups_whose_names_differ_in_punctuation_or_case_have_files_of_their_own(
    tmp_path: Path,
) -> None:
    store = PersonalStore(tmp_path)
    groups = [
        "Korea, Republic of",
        "Korea Republic of",
        "korea republic of",
        "日本",
        "中国",
        "../x",
    ]
    for number, group in enumerate(groups):
        store.save(group, Personal({"w": torch.full((2,), float(number))}, None, 1))
    assert len(list(tmp_path.iterdir())) == len(groups)
    for number, group in enumerate(groups):
        assert store.load(group).parameters["w"].tolist() == [number, number]
    assert store.file(groups[0]).name.startswith("korea-republic-of-")


def test_parameters_that_share_memory_are_saved(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    store = PersonalStore(tmp_path)
    store.save("A", Personal({"a": whole[:2], "b/c": whole[2:].view(2, 2)}, None, 1))
    assert store.load("A").parameters["b/c"].tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"{}",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"round"', b'"ruond"'),
        lambda content: content.replace(b'"round":"1"', b'"round":"x"'),
        lambda content: content.replace(b"now/", b"new/"),
        lambda content: content.replace(b"now/", b"now_"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, damage: object) -> None:
    store = PersonalStore(tmp_path)
    store.save("A", Personal(GLOBAL[1], None, 1))
    file = store.file("A")
    content = damage(file.read_bytes())
    assert content != file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"is damaged .*remove it") as error:
        store.load("A")
    assert str(file) in str(error.value)


def test_a_save_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PersonalStore(tmp_path)
    store.save("A", Personal(GLOBAL[1], None, 1))

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        store.save("A", Personal(GLOBAL[2], GLOBAL[1], 2))
    assert same(store.load("A").parameters, GLOBAL[1])


def test_every_group_goes_its_own_way(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    other = replace(DATA, group="Northern farmers")
    round_of("ditto", store, 1)
    round_of("ditto", store, 1, data=other)
    assert not same(*(store.load(data.group).parameters for data in (DATA, other)))
