import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from task.errors import RunDirectoryError
from task.ledger import SCORES, UPDATE, Ledger, Release, digest_of


def test_releases_are_counted_by_kind() -> None:
    ledger = Ledger(None, repeats=True)
    ledger.charge(UPDATE, 1, "a")
    ledger.charge(UPDATE, 2, "b")
    ledger.charge(SCORES, 2, "b")
    assert (ledger.count(UPDATE), ledger.count(SCORES)) == (2, 1)


def test_the_same_seeded_release_costs_nothing_again() -> None:
    ledger = Ledger(None, repeats=True)
    first = ledger.charge(UPDATE, 1, "a")
    assert ledger.charge(UPDATE, 1, "a") == ledger.find(UPDATE, 1, "a") == first
    assert ledger.count(UPDATE) == 1


def test_other_content_of_a_round_is_another_attempt_and_charged() -> None:
    ledger = Ledger(None, repeats=True)
    assert ledger.charge(UPDATE, 1, "a").attempt == 0
    assert ledger.charge(UPDATE, 1, "b").attempt == 1
    assert ledger.charge(SCORES, 1, "b").attempt == 0
    assert ledger.charge(UPDATE, 2, "b").attempt == 0
    assert ledger.charge(UPDATE, 1, "a").attempt == 0
    assert (ledger.count(UPDATE), ledger.count(SCORES)) == (3, 1)


def test_secure_noise_never_repeats_so_everything_is_charged() -> None:
    ledger = Ledger(None, repeats=False)
    ledger.charge(UPDATE, 1, "a")
    assert ledger.find(UPDATE, 1, "a") is None
    assert ledger.charge(UPDATE, 1, "a").attempt == 1
    assert ledger.count(UPDATE) == 2


def test_a_ledger_that_is_opened_again_knows_every_release(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    first = Ledger(file, repeats=True)
    charged = [first.charge(UPDATE, 1, "a"), first.charge(SCORES, 1, "b")]
    again = Ledger(file, repeats=True)
    assert again.releases == charged
    assert again.charge(UPDATE, 2, "a") == Release(UPDATE, 2, 0, "a")
    assert Ledger(file, repeats=False).releases == again.releases


def test_what_another_process_repeats_is_charged_again_with_other_noise(tmp_path: Path) -> None:
    """After a kill other clients may answer: with the same noise the two would tell who."""
    file = tmp_path / "ledger"
    Ledger(file, repeats=True).charge(UPDATE, 1, "a")
    resumed = Ledger(file, repeats=True)
    assert resumed.find(UPDATE, 1, "a") is None
    second = resumed.charge(UPDATE, 1, "a")
    assert second == Release(UPDATE, 1, 1, "a")
    assert resumed.charge(UPDATE, 1, "a") == second
    assert (resumed.count(UPDATE), resumed.count_repeated(UPDATE)) == (2, 1)
    assert Ledger(file, repeats=True).charge(UPDATE, 1, "a").attempt == 2


def test_a_ledger_that_has_lost_a_release_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    Ledger(file, repeats=True).charge(UPDATE, 1, "a")
    Ledger(file, repeats=True).require(1)
    with pytest.raises(RunDirectoryError, match=r"has 1 releases, expected 2 or more"):
        Ledger(file, repeats=True).require(2)


def test_a_line_is_on_disk_before_the_release_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ledger"
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(file.read_text()))
    Ledger(file, repeats=True).charge(UPDATE, 1, "a")
    text, again = synced  # the file, and the folder that it is new in
    assert text == again
    line = {"what": UPDATE, "server_round": 1, "attempt": 0, "digest": "a"}
    assert json.loads(text) == line


def test_what_cannot_be_written_is_not_charged(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "missing" / "ledger", repeats=True)
    with pytest.raises(OSError, match="missing"):
        ledger.charge(UPDATE, 1, "a")
    assert ledger.count(UPDATE) == 0


@pytest.mark.parametrize("left", [1, 10, -1])
def test_a_torn_last_line_is_taken_out(tmp_path: Path, left: int) -> None:
    file = tmp_path / "ledger"
    ledger = Ledger(file, repeats=True)
    ledger.charge(UPDATE, 1, "a")
    whole = file.read_text()
    ledger.charge(UPDATE, 2, "b")
    torn = file.read_text()[len(whole) :][:left]
    file.write_text(whole + torn)
    again = Ledger(file, repeats=True)
    assert again.count(UPDATE) == 1
    assert file.read_text() == whole
    again.charge(UPDATE, 2, "b")
    assert Ledger(file, repeats=True).count(UPDATE) == 2


@pytest.mark.parametrize(
    "damage", ["not json", "[]", '{"what": "update"}', '{"what": "update", "more": 1}', ""]
)
def test_a_damaged_line_is_refused(tmp_path: Path, damage: str) -> None:
    # A run that skipped such lines would forget what it has spent.
    file = tmp_path / "ledger"
    ledger = Ledger(file, repeats=True)
    ledger.charge(UPDATE, 1, "a")
    ledger.charge(UPDATE, 2, "b")
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{damage}\n{second}\n")
    with pytest.raises(RunDirectoryError, match=r"line 2 is damaged .*must not be forgotten"):
        Ledger(file, repeats=True)
    assert file.read_text() == f"{first}\n{damage}\n{second}\n"


KILLED = """
import sys
from pathlib import Path
from task.ledger import UPDATE, Ledger
ledger = Ledger(Path(sys.argv[1]), repeats=False)
for server_round in range(1, 10**9):
    ledger.charge(UPDATE, server_round, "digest")
    print(server_round, flush=True)  # the release
"""


def test_a_killed_process_forgets_no_release_that_it_has_made(tmp_path: Path) -> None:
    file, out = tmp_path / "ledger", tmp_path / "out"
    with out.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)], stdout=stream)
        try:
            while len(out.read_text().splitlines()) < 20:
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
    released = len(out.read_text().splitlines())
    charged = Ledger(file, repeats=False).count(UPDATE)
    assert released <= charged <= released + 1


def test_a_digest_depends_on_every_bit_and_on_the_settings() -> None:
    parameters = torch.tensor([1.0, 2.0, 3.0])
    digest = digest_of(parameters, "a")
    assert digest == digest_of(parameters.clone().requires_grad_(), "a")
    other = parameters.clone()
    other[2] = torch.nextafter(other[2], torch.tensor(9.0))
    assert (
        len({digest, digest_of(other, "a"), digest_of(parameters, "b"), digest_of(parameters)}) == 4
    )
