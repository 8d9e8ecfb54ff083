import math
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, pld
from flwr.app import Message, RecordDict

from client_app.budget import charge_run, question_ledger
from task import records
from task.config import RunConfig
from task.errors import BudgetError, RunDirectoryError
from task.noise_key import KEY_FILE
from task.question_ledger import Release, history_epsilon
from tests.client_app.test_state import KEYS, message_of, node_of
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import tiny_config

GROUP = "Northern nurses"
MEMBER = {
    "privacy__unit": "member",
    "privacy__noise_multiplier": 2.0,
    "privacy__secure_noise": True,
    "privacy__max_epsilon": 2.0,
    "privacy__respondents": 1000,
}


def gaussian_epsilon(noise_multiplier: float) -> float:
    accountant = pld.PLDAccountant()
    accountant.compose(GaussianDpEvent(noise_multiplier))
    return float(accountant.get_epsilon(1e-5))


class Node:
    """A node of unit member that allows one release and another one, but no third."""

    def __init__(self, folder: Path, max_epsilon: float) -> None:
        self.grid = HomeGrid(tiny_config(), folder, **MEMBER)
        self.context = self.grid.contexts[self.grid.node_of[GROUP]]
        self.context.node_config |= {"privacy-unit": "member", "max-epsilon": max_epsilon}
        self.state = Path(str(self.context.node_config["state-path"]))

    def describe(self, **changes: Any) -> str:
        """What a run with these settings is told: nothing, or why it is refused."""
        flat = {key.replace("__", ".").replace("_", "-"): v for key, v in changes.items()}
        self.context.run_config = {**self.grid.config.to_flat(), **flat}
        message = Message(RecordDict(), self.context.node_id, records.DESCRIBE)
        (reply,) = self.grid.send_and_receive([message])
        return str(reply.error.reason) if reply.has_error() else ""


def test_every_release_of_histograms_is_charged_once_and_all_are_composed(tmp_path: Path) -> None:
    both = gaussian_epsilon(2.0 / math.sqrt(2))  # two of standard deviation 2 are one of 2 / sqrt 2
    node = Node(tmp_path, max_epsilon=both + 0.1)
    for _ in range(3):
        assert node.describe() == ""
    assert node.describe(run__seed=5) == ""  # another run, the same histograms
    assert node.describe(privacy__noise_multiplier=2.0001) == ""
    refusal = node.describe(privacy__noise_multiplier=2.0002)
    assert "would take group 'Northern nurses' from epsilon " in refusal
    spent = float(refusal.split("from epsilon ")[1].split()[0])
    assert spent == pytest.approx(both, abs=0.01)
    assert node.describe() == ""


def test_a_key_that_was_deleted_makes_a_release_more(tmp_path: Path) -> None:
    node = Node(tmp_path, max_epsilon=gaussian_epsilon(2.0) + 0.1)
    assert node.describe() == ""
    (node.state / KEY_FILE).unlink()
    assert "over all its runs" in node.describe()


def question_node(folder: Path, steps: int) -> tuple[RunConfig, Any]:
    config = tiny_config(
        privacy__unit="question",
        privacy__noise_multiplier=1.5,
        privacy__secure_noise=True,
        privacy__accountant="rdp",
        privacy__max_epsilon=100.0,
    )
    allowed = history_epsilon(((1.5, 0.5, steps),), 1e-5, "rdp") + 1e-6
    node = {"privacy-unit": "question", "max-epsilon": allowed, "data-path": "/x"}
    return config, node_of(**node | {"state-path": str(folder)})  # type: ignore[arg-type]


def test_a_run_under_a_new_key_has_no_new_budget(tmp_path: Path) -> None:
    config, context = question_node(tmp_path, steps=6)
    release = Release(
        kind="train", server_round=1, request="r", noise_multiplier=1.5, sample_rate=0.5, steps=3
    )
    ledgers = [question_ledger(config, context, message_of(f"{i:016x}")) for i in range(3)]
    assert [ledgers[i].charge("A", release) for i in range(2)] == [1, 1]
    with pytest.raises(BudgetError, match=r"max-epsilon of this node = .*: to train in round 1"):
        ledgers[2].charge("A", release)
    assert ledgers[2].load("A") == []
    assert ledgers[0].epsilon("A") == history_epsilon(((1.5, 0.5, 3),), 1e-5, "rdp")


def test_budgets_of_unit_client_add_up_over_runs(tmp_path: Path) -> None:
    config = tiny_config(
        privacy__unit="client", privacy__noise_multiplier=1.0, privacy__max_epsilon=3.0,
        strategy__clipping_norm=1.0,
    )  # fmt: skip
    node: dict[str, Any] = {"privacy-unit": "client", "max-epsilon": 5.0, "data-path": "/x"}
    context = node_of(**node | {"state-path": str(tmp_path)})
    charge_run(config, context, message_of(KEYS[0]), "A")
    charge_run(config, context, message_of(KEYS[0]), "A")
    charge_run(config, context, message_of(KEYS[1]), "B")
    with pytest.raises(BudgetError, match=r"'A' from epsilon 3.000 to 6.000 over all its runs"):
        charge_run(config, context, message_of(KEYS[1]), "A")
    (file,) = (tmp_path / "all-runs").glob("a-*.client.json")
    file.write_text("{")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        charge_run(config, context, message_of(KEYS[0]), "A")
