"""Supervisors in processes of their own, of real child processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployment.supervisor import SUPERVISED, BackOff

SUPERVISE = """
import sys, os
from pathlib import Path
from deployment.supervisor import BackOff, Supervisor, sole_owner
folder = Path(sys.argv[1])
say = lambda line: print(line, flush=True)
supervisor = Supervisor(
    dict(os.environ),
    folder,
    output=lambda line: say("child: " + line),
    say=lambda line: say("said: " + line),
    explain=lambda ended: f"Ended with {ended.status} after {list(ended.lines)}.",
    started=lambda over: say("started"),
    back_off=BackOff(first=0.01, cap=0.02),
)
with sole_owner(folder):
    supervisor.run(lambda: [sys.executable, "-u", str(folder / "child.py")])
"""

FAILS_TWICE = """
import pathlib, time
count = pathlib.Path("count")
number = int(count.read_text()) if count.exists() else 0
count.write_text(str(number + 1))
print("start", number, flush=True)
if number < 2:
    raise SystemExit(number + 7)
time.sleep(600)
"""

DETACHES = """
import subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print("other", other.pid, flush=True)
time.sleep(600)
"""

IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def supervise(folder: Path, child: str) -> subprocess.Popen[str]:
    (folder / "child.py").write_text(child)
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line.rstrip())
        if wanted in line:
            return seen
    raise AssertionError(f"{wanted!r} was not said: {seen}")


def of_folder(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SUPERVISED) == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in of_folder(tmp_path):
        process.kill()


def test_a_process_that_dies_is_started_again_with_the_reason_said(folder: Path) -> None:
    supervisor = supervise(folder, FAILS_TWICE)
    said = lines_until(supervisor, "child: start 2")
    assert "said: Ended with 7 after ['start 0']. Next start in 0 s." in said
    assert "said: Ended with 8 after ['start 1']. Next start in 0 s." in said
    supervisor.send_signal(signal.SIGTERM)
    assert lines_until(supervisor, "said: Stopped.")
    assert supervisor.wait() == 0
    assert not of_folder(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_of_what_the_process_started(folder: Path, number: signal.Signals) -> None:
    supervisor = supervise(folder, DETACHES)
    other = int(lines_until(supervisor, "child: other")[-1].split()[-1])
    assert psutil.pid_exists(other)
    supervisor.send_signal(number)
    assert supervisor.wait() == 0
    assert not of_folder(folder)
    assert not psutil.pid_exists(other) or psutil.Process(other).status() == "zombie"


def test_a_process_that_ignores_the_request_to_end_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        f"{__name__}.SUPERVISE",
        "import deployment.processes as p; p.STOP_SECONDS = 0.2\n" + SUPERVISE,
    )
    supervisor = supervise(folder, IGNORES_SIGTERM)
    lines_until(supervisor, "child: ready")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert not of_folder(folder)


PRINTS_MUCH = """
import pathlib, time
for number in range(5000):
    print("x" * 100, flush=True)
pathlib.Path("through").touch()
time.sleep(600)
"""


def test_a_console_that_fails_does_not_stop_the_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        f"{__name__}.SUPERVISE",
        "def full(line): raise OSError(28, 'No space left on device')\n"
        + SUPERVISE.replace('lambda line: say("child: " + line)', "full"),
    )
    supervisor = supervise(folder, PRINTS_MUCH)
    deadline = time.monotonic() + 60
    while not (folder / "through").exists():
        assert time.monotonic() < deadline, "the process stands still"
        time.sleep(0.1)
    supervisor.terminate()
    assert supervisor.wait() == 0


def test_a_failure_elsewhere_ends_process_and_supervisor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        f"{__name__}.SUPERVISE",
        SUPERVISE.replace('say("started")', 'supervisor.fail("The gateway has ended.")'),
    )
    supervisor = supervise(folder, DETACHES)
    assert lines_until(supervisor, "DeploymentError: The gateway has ended.")
    assert supervisor.wait() == 1
    assert not of_folder(folder)


def test_what_a_killed_supervisor_left_is_ended_by_the_next(folder: Path) -> None:
    first = supervise(folder, DETACHES)
    lines_until(first, "child: other")
    first.kill()
    first.wait()
    left = {process.pid for process in of_folder(folder)}
    assert len(left) == 2
    second = supervise(folder, DETACHES)
    said = lines_until(second, "child: other")
    assert "said: Ended 2 process(es) that an earlier start had left behind." in said
    assert not left & {process.pid for process in of_folder(folder)}
    second.terminate()
    assert second.wait() == 0


def test_a_folder_has_one_supervisor(folder: Path) -> None:
    first = supervise(folder, DETACHES)
    lines_until(first, "child: other")
    second = supervise(folder, DETACHES)
    assert "in use by another `pluralllm deploy` process" in lines_until(second, "in use")[-1]
    second.communicate()
    assert len(of_folder(folder)) == 2
    first.terminate()
    assert first.wait() == 0


def test_waits_double_to_a_cap_and_start_anew_after_a_good_run() -> None:
    back_off = BackOff(first=2, cap=10, healthy=60, jitter=0.5, draw=lambda: 0.5)
    assert [back_off.after(1) for _ in range(5)] == [2, 4, 8, 10, 10]
    assert [back_off.after(60), back_off.after(1)] == [2, 4]


def test_waits_differ_between_nodes() -> None:
    least = BackOff(first=2, jitter=0.5, draw=lambda: 0.0).after(0)
    most = BackOff(first=2, jitter=0.5, draw=lambda: 1.0).after(0)
    assert (least, most) == (1.0, 3.0)
