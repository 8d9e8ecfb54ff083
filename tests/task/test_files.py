import os
from pathlib import Path

import pytest
import torch

from server_app.run_directory import RunDirectory
from task.files import write_whole
from task.round_store import Kept, RoundStore


def test_a_write_that_fails_leaves_the_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "folder" / "file"
    write_whole(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_whole(file, b"new")
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == {"file": b"old"}


def test_content_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace

    def syncing(descriptor: int) -> None:
        order.append("sync")
        sync(descriptor)

    def replacing(self: Path, target: Path) -> Path:
        order.append(f"name {target.name.split('.')[-1]}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    write_whole(tmp_path / "file.whole", b"content")
    store = RoundStore(tmp_path, suffix="", without="")
    store.write("A", Kept({"weight": torch.ones(2)}, None, 3))
    RunDirectory(tmp_path).write_json("summary.json", {})
    assert order == [
        *("sync", "name whole", "sync"), *("sync", "name safetensors", "sync"),
        *("sync", "name json"),
    ]  # fmt: skip
    kept = store.read("A")
    assert kept
    assert (kept.now["weight"].tolist(), kept.before, kept.server_round) == ([1, 1], None, 3)
