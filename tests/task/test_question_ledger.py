import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant, RDPAccountant

from task.errors import BudgetError, RunDirectoryError, UserError
from task.privacy_config import PrivacyConfig
from task.question_ledger import (
    EVALUATE,
    TRAIN,
    QuestionLedger,
    Release,
    digest_request,
    history_epsilon,
    question_epsilon,
)
from tests.task.examples import make_group

GROUP = "Côte d'Ivoire / North"
SETTINGS = PrivacyConfig(unit="question", noise_multiplier=2.0, accountant="rdp")


def release(request="a", server_round=1, kind=TRAIN, **changes):
    values = {"noise_multiplier": 2.0, "sample_rate": 0.5, "steps": 6} | changes
    return Release(kind=kind, server_round=server_round, request=request, **values)


# -- Epsilon ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accountant", "kind"), [("rdp", RDPAccountant), ("pld", PRVAccountant)])
def test_epsilon_is_opacus_own_step_by_step(accountant, kind):
    opacus = kind()
    for _ in range(12):
        opacus.step(noise_multiplier=2.0, sample_rate=0.5)
    for _ in range(3):
        opacus.step(noise_multiplier=5.0, sample_rate=1.0)
    history = ((2.0, 0.5, 12), (5.0, 1.0, 3))
    assert history_epsilon(history, 1e-5, accountant) == pytest.approx(
        opacus.get_epsilon(delta=1e-5), abs=1e-9
    )


def test_pld_is_near_another_librarys():
    other = PLDAccountant(value_discretization_interval=1e-3)
    sampled = dp_event.PoissonSampledDpEvent(0.5, dp_event.GaussianDpEvent(2.0))
    other.compose(sampled, 12)
    other.compose(dp_event.GaussianDpEvent(5.0), 3)
    ours = history_epsilon(((2.0, 0.5, 12), (5.0, 1.0, 3)), 1e-5, "pld")
    assert ours == pytest.approx(other.get_epsilon(1e-5), abs=0.03)
    assert ours < history_epsilon(((2.0, 0.5, 12), (5.0, 1.0, 3)), 1e-5, "rdp")


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_no_noise_is_no_privacy_and_no_release_costs_nothing(accountant):
    assert question_epsilon(0.0, 0.5, 1, 1e-5, accountant) == math.inf
    assert history_epsilon(((0.0, 0.5, 1), (2.0, 0.5, 6)), 1e-5, accountant) == math.inf
    assert question_epsilon(0.0, 0.5, 0, 1e-5, accountant) == 0
    assert history_epsilon((), 1e-5, accountant) == 0


def test_an_epsilon_that_prv_cannot_compute_is_rdps():
    started = time.monotonic()
    assert question_epsilon(0.3, 0.5, 300, 1e-5, "pld") == question_epsilon(
        0.3, 0.5, 300, 1e-5, "rdp"
    )
    assert time.monotonic() - started < 5
    assert question_epsilon(0.3, 0.5, 300, 1e-5, "pld") > 100


# -- Charging --------------------------------------------------------------------------------------


def test_cost_adds_up_over_rounds_and_kinds_and_survives_a_restart(tmp_path: Path):
    ledger = QuestionLedger(tmp_path, SETTINGS)
    assert ledger.epsilon(GROUP) == 0
    for server_round in (1, 2, 3):
        assert ledger.charge(GROUP, release(server_round=server_round)) == 1
    evaluated = release(kind=EVALUATE, noise_multiplier=5.0, sample_rate=1.0, steps=1)
    assert ledger.charge(GROUP, evaluated) == 1
    expected = history_epsilon(((2.0, 0.5, 18), (5.0, 1.0, 1)), 1e-5, "rdp")
    restarted = QuestionLedger(tmp_path, SETTINGS)
    assert restarted.epsilon(GROUP) == ledger.epsilon(GROUP) == expected
    assert restarted.epsilon("Mali") == 0  # groups apart
    assert [each.server_round for each in restarted.load(GROUP)] == [1, 2, 3, 1]


def test_the_same_request_is_the_same_release_and_any_other_is_charged(tmp_path: Path):
    def charge(*args):
        return QuestionLedger(tmp_path, SETTINGS).charge(GROUP, release(*args))

    assert [charge("a"), charge("a"), charge("b"), charge("a"), charge("b")] == [1, 1, 2, 1, 2]
    assert len(QuestionLedger(tmp_path, SETTINGS).load(GROUP)) == 2
    assert [charge("a", 2), charge("a", 1, EVALUATE), charge("c")] == [1, 1, 3]
    assert len(QuestionLedger(tmp_path, SETTINGS).load(GROUP)) == 5


def test_secure_noise_is_charged_every_time(tmp_path: Path):
    ledger = QuestionLedger(tmp_path, replace(SETTINGS, secure_noise=True))
    assert [ledger.charge(GROUP, release()) for _ in range(3)] == [1, 2, 3]
    assert ledger.epsilon(GROUP) == history_epsilon(((2.0, 0.5, 18),), 1e-5, "rdp")


def test_a_release_beyond_the_budget_is_refused_and_not_charged(tmp_path: Path):
    one, two = (question_epsilon(2.0, 0.5, steps, 1e-5, "rdp") for steps in (6, 12))
    ledger = QuestionLedger(tmp_path, replace(SETTINGS, max_epsilon=(one + two) / 2))
    assert ledger.charge(GROUP, release()) == 1
    with pytest.raises(BudgetError) as refused:
        ledger.charge(GROUP, release(server_round=2))
    message = str(refused.value)
    assert f"from epsilon {one:.3f} to {two:.3f}" in message
    assert "round 2" in message and GROUP in message and isinstance(refused.value, UserError)
    assert ledger.epsilon(GROUP) == one
    assert ledger.charge(GROUP, release()) == 1  # paid for already
    exact = QuestionLedger(tmp_path, replace(SETTINGS, max_epsilon=two))
    assert exact.charge(GROUP, release(server_round=2)) == 1


def test_no_noise_is_beyond_every_budget(tmp_path: Path):
    ledger = QuestionLedger(tmp_path, replace(SETTINGS, max_epsilon=1e9))
    with pytest.raises(BudgetError, match="to inf"):
        ledger.charge(GROUP, release(noise_multiplier=0.0))
    assert QuestionLedger(tmp_path, SETTINGS).charge(GROUP, release(noise_multiplier=0.0)) == 1
    assert ledger.epsilon(GROUP) == math.inf


# -- Files -----------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch):
    ledger = QuestionLedger(tmp_path, SETTINGS)
    ledger.charge(GROUP, release())
    before = ledger.file(GROUP).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            ledger.charge(GROUP, release(server_round=2))
    assert ledger.file(GROUP).read_bytes() == before


def test_it_is_on_disk_before_charge_returns(tmp_path: Path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd)) or fsync(fd))
    QuestionLedger(tmp_path, SETTINGS).charge(GROUP, release())
    kept = QuestionLedger(tmp_path, SETTINGS).file(GROUP).stat()
    assert [each.st_ino for each in synced] == [kept.st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept[:-20],
        lambda kept: "",
        lambda kept: "[]",
        lambda kept: kept.replace('"steps": 6', '"steps": "6"'),
        lambda kept: kept.replace('"steps": 6', '"steps": -6'),
        lambda kept: kept.replace('"sample_rate": 0.5', '"sample_rate": 0.0'),
        lambda kept: kept.replace('"noise_multiplier": 2.0', '"noise_multiplier": NaN'),
        lambda kept: kept.replace('"request": "a",', ""),
        lambda kept: kept.replace('"version": 1', '"version": 2'),
        lambda kept: kept.replace("North", "South"),
    ],
)
def test_a_damaged_file_is_an_error_and_no_fresh_start(tmp_path: Path, damage):
    ledger = QuestionLedger(tmp_path, SETTINGS)
    ledger.charge(GROUP, release())
    file = ledger.file(GROUP)
    kept = file.read_text()
    file.write_text(damage(kept))
    assert file.read_text() != kept
    for use in (lambda: ledger.charge(GROUP, release("b")), lambda: ledger.epsilon(GROUP)):
        with pytest.raises(RunDirectoryError, match="is damaged") as error:
            use()
        assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert file.read_text() == damage(kept)


def test_a_numbers_type_may_be_an_integer(tmp_path: Path):
    ledger = QuestionLedger(tmp_path, SETTINGS)
    ledger.charge(GROUP, release(noise_multiplier=2, sample_rate=1))
    assert ledger.epsilon(GROUP) == question_epsilon(2.0, 1.0, 6, 1e-5, "rdp")


def test_a_killed_process_has_paid(tmp_path: Path):
    """A real one, killed between the charge and the result."""
    code = """
import sys, time
from pathlib import Path
from task.question_ledger import QuestionLedger, Release
from task.privacy_config import PrivacyConfig
ledger = QuestionLedger(Path(sys.argv[1]), PrivacyConfig(unit="question", noise_multiplier=2.0))
ledger.charge("Mali", Release(kind="train", server_round=1, request="a", noise_multiplier=2.0,
                              sample_rate=0.5, steps=6))
print("charged", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout.readline() == "charged\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    ledger = QuestionLedger(tmp_path, SETTINGS)
    assert ledger.load("Mali") == [release()]
    assert ledger.charge("Mali", release()) == 1  # and its lock is gone
    assert len(ledger.load("Mali")) == 1


def test_two_processes_lose_no_charge(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from task.question_ledger import QuestionLedger, Release
from task.privacy_config import PrivacyConfig
ledger = QuestionLedger(Path(sys.argv[1]), PrivacyConfig(unit="question", noise_multiplier=2.0))
for server_round in range(40):
    ledger.charge("Mali", Release(kind="train", server_round=server_round, request=sys.argv[2],
                                  noise_multiplier=2.0, sample_rate=0.5, steps=6))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen([*command, name], env=environment) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(QuestionLedger(tmp_path, SETTINGS).load("Mali")) == 80


def test_nothing_of_the_answers_is_in_the_file(tmp_path: Path):
    ledger = QuestionLedger(tmp_path, SETTINGS)
    ledger.charge(GROUP, release())
    (entry,) = json.loads(ledger.file(GROUP).read_text())["releases"]
    assert set(entry) == {
        "kind", "server_round", "request", "noise_multiplier", "sample_rate", "steps",
    }  # fmt: skip


# -- Digest ----------------------------------------------------------------------------------------


def test_a_digest_tells_apart_all_that_a_release_depends_on():
    data = make_group([2, 3, 4, 2], seed=1)
    tensors = {"a": torch.ones(2), "b": torch.zeros(2)}
    base = digest_request(tensors, data, [0.1], 1)
    assert base == digest_request(dict(reversed(tensors.items())), data, [0.1], 1)
    shares = data.answers.shares.copy()
    shares[0] += 1e-7
    other_answers = replace(data, answers=replace(data.answers, shares=shares))
    others = [
        digest_request({"a": torch.zeros(2), "b": torch.ones(2)}, data, [0.1], 1),
        digest_request({"a": torch.ones(2), "b": torch.zeros(1, 2)}, data, [0.1], 1),
        digest_request({"a": torch.ones(2).double(), "b": torch.zeros(2)}, data, [0.1], 1),
        digest_request(tensors, data, [0.1, 0.1], 1),
        digest_request(tensors, data, [0.1], 2),
        digest_request(tensors, replace(data, group="B"), [0.1], 1),
        digest_request(tensors, replace(data, trainable=data.trainable[:3]), [0.1], 1),
        digest_request(tensors, replace(data, features=data.features + 1), [0.1], 1),
        digest_request(tensors, other_answers, [0.1], 1),
    ]
    assert len({base, *others}) == 10
