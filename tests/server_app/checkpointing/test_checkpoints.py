import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server_app.checkpointing import checkpoint_files
from server_app.checkpointing.checkpoints import Checkpoint, Checkpoints, require_every_round
from server_app.strategies import make_strategy
from task.errors import ConfigError, RunDirectoryError
from task.operations_config import CheckpointConfig
from tests.server_app.in_process_grid import tiny_config


def checkpoints(run: Path, every: int = 1, keep: int = 2) -> Checkpoints:
    return Checkpoints(run, CheckpointConfig(every=every, keep=keep))


def after(server_round: int) -> Checkpoint:
    state = {"round": server_round, "array": np.full(1000, server_round), "text": "a"}
    return Checkpoint(server_round, state)


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_newest_is_read_back(tmp_path: Path) -> None:
    written = checkpoints(tmp_path)
    for server_round in (0, 1, 2):
        written.add(after(server_round))
    found = checkpoints(tmp_path).latest()
    assert found.server_round == 2
    np.testing.assert_array_equal(found.state["array"], np.full(1000, 2))


def test_as_many_as_asked_for_are_kept(tmp_path: Path) -> None:
    written = checkpoints(tmp_path, keep=3)
    for server_round in range(12):
        written.add(after(server_round))
    assert folders(tmp_path) == ["round-000009", "round-000010", "round-000011"]


def test_a_round_between_is_written_when_the_run_ends(tmp_path: Path) -> None:
    written = checkpoints(tmp_path, every=3)
    for server_round in range(5):
        written.add(after(server_round))
    assert folders(tmp_path) == ["round-000000", "round-000003"]
    written.flush()
    written.flush()
    assert folders(tmp_path) == ["round-000003", "round-000004"]
    assert checkpoints(tmp_path).latest().server_round == 4


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["state.json", "arrays.safetensors"])
def test_a_damaged_one_is_passed_over_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, name: str
) -> None:
    written = checkpoints(tmp_path)
    written.add(after(1))
    written.add(after(2))
    damage(tmp_path / "checkpoints" / "round-000002" / name)
    assert checkpoints(tmp_path).latest().server_round == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Checkpoint {tmp_path / 'checkpoints' / 'round-000002'} is damaged (")
    checkpoints(tmp_path).add(after(2))  # its round is made again
    assert checkpoints(tmp_path).latest().server_round == 2
    assert "damaged-round-000002-1" in folders(tmp_path)
    damage(tmp_path / "checkpoints" / "round-000002" / name)  # and once more
    assert checkpoints(tmp_path).latest().server_round == 1
    assert "damaged-round-000002-2" in folders(tmp_path)


def test_without_any_that_is_whole_the_error_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"has no checkpoint \(there is nothing\)"):
        checkpoints(tmp_path).latest()
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(RunDirectoryError, match=r"has no checkpoint \(it holds metrics\.jsonl\)"):
        checkpoints(tmp_path).latest()
    checkpoints(tmp_path).add(after(1))
    truncate(tmp_path / "checkpoints" / "round-000001" / "state.json")
    with pytest.raises(RunDirectoryError, match="no checkpoint that is whole"):
        checkpoints(tmp_path).latest()


def test_what_a_kill_left_half_written_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    checkpoints(tmp_path).add(after(1))
    (tmp_path / "checkpoints" / ".7-0-round-000002").mkdir()
    assert checkpoints(tmp_path).latest().server_round == 1
    assert folders(tmp_path) == ["round-000001"]
    assert (tmp_path / "checkpoints").stat().st_mode & 0o777 == 0o700


def test_files_are_on_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, rename = os.fsync, Path.rename

    def syncing(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def renaming(self: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "rename", renaming)
    checkpoints(tmp_path).add(after(1))
    assert set(order[:2]) == {"arrays.safetensors", "state.json"}
    assert order[3:] == ["rename to round-000001", "checkpoints"]


def test_a_full_disk_is_named_and_damages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = checkpoints(tmp_path)
    written.add(after(1))
    before = files(tmp_path)

    def full(file: Path, content: bytes) -> None:
        file.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(checkpoint_files, "_write", full)
    with pytest.raises(RunDirectoryError, match=r"round-000002 cannot be written: No space left"):
        written.add(after(2))
    assert files(tmp_path) == before
    monkeypatch.undo()
    written.flush()  # the round is still in memory
    assert checkpoints(tmp_path).latest().server_round == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_is_named_and_damages_nothing(small_disk: Path) -> None:
    written = checkpoints(small_disk, keep=9)
    with pytest.raises(RunDirectoryError, match="cannot be written: No space left on device"):
        for server_round in range(9):
            before = files(small_disk)
            written.add(after(server_round))
    assert server_round > 1
    assert files(small_disk) == before
    assert checkpoints(small_disk).latest().server_round == server_round - 1


def test_clients_that_can_repeat_one_round_only_need_a_checkpoint_of_each() -> None:
    for changes, what in (
        ({"strategy__name": "ditto"}, "strategy.name = 'ditto'"),
        ({"compression__name": "top-k"}, "compression.name = 'top-k'"),
    ):
        rare, each = (tiny_config(checkpoint__every=every, **changes) for every in (2, 1))
        with pytest.raises(ConfigError, match=f"checkpoint.every = 2: expected 0 or 1 with {what}"):
            require_every_round(make_strategy(rare), rare)
        require_every_round(make_strategy(each), each)
