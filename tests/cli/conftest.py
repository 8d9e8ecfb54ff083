from pathlib import Path

import pytest

from tests.cli.command import Command, make_command


@pytest.fixture
def pluralllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return make_command(monkeypatch, capsys)
