"""The testbed's own measurements, on what is known: otherwise its figures would prove nothing."""

import socket
from pathlib import Path

import pytest

from benchmarks.testbed.capture import Capture, found_texts
from benchmarks.testbed.cases import fill, small_disk
from benchmarks.testbed.memory import Sample, slopes

QUESTION = "Should the town build a tram along the river, or rather a second bridge?"


def test_plain_text_on_the_wire_is_found(tmp_path: Path) -> None:
    file = tmp_path / "packets.bin"
    try:
        capture = Capture("lo", file)
    except PermissionError:
        pytest.skip("recording packets is not permitted here")
    with (
        capture,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(QUESTION.encode(), receiver.getsockname())
        receiver.recv(1000)
    assert found_texts(file, [QUESTION, "Another question that nobody has sent at all"]) == [
        QUESTION
    ]


def test_a_text_that_two_packets_share_is_found(tmp_path: Path) -> None:
    file = tmp_path / "packets.bin"
    encoded = QUESTION.encode()
    file.write_bytes(encoded[:30] + b"the next packet's header" + encoded[30:])
    assert found_texts(file, [QUESTION]) == [QUESTION]


def samples(growth: float) -> list[Sample]:
    """A superlink that loads code for ten rounds, then grows by so many MB a round."""
    megabytes = [50.0 + 5.0 * n if n < 10 else 100.0 + growth * n for n in range(60)]
    return [
        Sample(n, n, "coordinator", "flower-superlink", 7, mb) for n, mb in enumerate(megabytes)
    ]


def test_growth_is_told_per_hundred_rounds_without_the_start() -> None:
    (steady,) = slopes(samples(0.0), skip_rounds=15)
    (leaking,) = slopes(samples(0.25), skip_rounds=15)
    assert steady["mb_per_100_rounds"] == pytest.approx(0.0, abs=1e-6)
    assert leaking["mb_per_100_rounds"] == pytest.approx(25.0)
    assert leaking["first_round"] == 15


def test_processes_of_one_message_are_left_out_of_the_growth() -> None:
    short = [Sample(n, n, "north", "flwr-clientapp", n, 400.0) for n in range(60)]
    assert slopes(short, skip_rounds=15) == []


def test_a_small_disk_fills_and_goes(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    with small_disk(mount) as mounted:
        if not mounted:
            pytest.skip("mounting is not permitted here")
        fill(mount / "ballast")
        with pytest.raises(OSError, match="No space left"):
            (mount / "file").write_bytes(bytes(8192))
    assert list(mount.iterdir()) == []
