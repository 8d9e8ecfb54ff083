"""A copy of the app whose ClientApp misbehaves when a file on its node says so."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.testbed.parties import Party

PROJECT = Path(__file__).parents[2]
PARTS = ("task", "client_app", "server_app", "LICENSE", "README.md", "pyproject.toml")
REAL, FAULTY = 'clientapp = "client_app.app:app"', 'clientapp = "faulty_client:app"'


def copy_faulty_app(folder: Path) -> Path:
    """Write the copy; return its folder, for `$PLURALLLM_PROJECT`."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    shutil.copy(Path(__file__).with_name("faulty_client.py"), folder)
    settings = folder / "pyproject.toml"
    text = settings.read_text()
    if text.count(REAL) != 1:
        raise ValueError(f"{settings} has no line {REAL!r}")
    settings.write_text(text.replace(REAL, FAULTY))
    return folder


def ask_for_fault(party: Party, fault: str) -> None:
    """Make a party's client misbehave at its next message to train."""
    party.data.with_name("fault").write_text(fault)


def fault_happened(party: Party) -> bool:
    """Return whether a client has taken the fault it was asked for."""
    return party.data.with_name("fault.done").exists()


def clear_faults(parties: Sequence[Party]) -> None:
    """Forget all faults that were asked for."""
    for party in parties:
        for name in ("fault", "fault.done"):
            party.data.with_name(name).unlink(missing_ok=True)
