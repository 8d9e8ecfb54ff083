"""What can be read on the wire: the packets of a run, searched for its questions and answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.testbed.capture import PIECE_BYTES, Capture, found_texts
from benchmarks.testbed.deployment import Deployment
from benchmarks.testbed.network import Network
from benchmarks.testbed.parties import Split

RUN_SECONDS = 1800.0
CONTROL = "embedder.0.weight"
"""Name of a parameter: it is in every message, and says whether plain text would be found."""


def captured_run(
    folder: Path, network: Network, split: Split, settings: Mapping[str, Any], *, secure: bool
) -> dict[str, Any]:
    """Run a deployment of its own with all its traffic recorded; return what is found in that."""
    deployment = Deployment(folder / "deployment", network, split, secure=secure)
    file = folder / "packets.bin"
    try:
        deployment.make()
        with Capture(network.interface, file) as capture:
            deployment.start()
            run = deployment.start_run(folder / "run", settings)
            status = run.wait(RUN_SECONDS)
    finally:
        deployment.close()
    if status:
        raise RuntimeError(f"the run failed:\n{run.command.output[-3000:]}")
    return findings(file, split, capture.num_packets)


def findings(file: Path, split: Split, num_packets: int) -> dict[str, Any]:
    """Return what a capture holds of a survey's texts, and of what every message carries."""
    long_enough = [text for text in split.texts if len(text.encode()) >= PIECE_BYTES]
    found = found_texts(file, long_enough)
    content = file.read_bytes()
    return {
        "packets": num_packets,
        "megabytes": round(len(content) / 1e6, 2),
        "texts_searched": len(long_enough),
        "texts_found": len(found),
        "first_found": found[:3],
        "times_a_parameter_name_is_readable": content.count(CONTROL.encode()),
    }
