import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from client_app.mods import report_errors
from task import records
from task.errors import (
    BudgetError,
    ConfigError,
    EncoderError,
    NodeConfigError,
    PopulationError,
    RoundError,
    RunDirectoryError,
    SurveyError,
    UserError,
)
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import tiny_config

HANGS = """
import sys, time
from types import SimpleNamespace
from client_app.mods import limit_time

settings = {"train.round-timeout": 0.3}
context = SimpleNamespace(node_config=eval(sys.argv[1]), run_config=settings)
limit_time(None, context, lambda message, context: time.sleep(2))
print("finished")
"""


def hang(node_config: dict[str, object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HANGS, repr(node_config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def reason_sent(tmp_path: Path, error: Exception) -> str:
    """What a node of its own tells the server when a handler raises."""
    grid = HomeGrid(tiny_config(), tmp_path)
    context = next(iter(grid.contexts.values()))
    message = Message(RecordDict(), context.node_id, "train")

    def handler(message: Message, context: object) -> Message:
        raise error

    return str(report_errors(message, context, handler).error.reason)


def test_what_an_error_quotes_of_the_survey_stays_in_the_nodes_log(tmp_path: Path, capfd) -> None:
    reason = reason_sent(tmp_path, SurveyError("share = 0.73 of 'Do you steal?'"))
    assert reason == "its survey cannot be used; the node's own log says why"
    assert "error: share = 0.73 of 'Do you steal?'" in capfd.readouterr().err


@pytest.mark.parametrize(
    "kind", [RunDirectoryError, EncoderError, NodeConfigError, PopulationError, UserError]
)
def test_errors_that_may_name_files_send_their_type_alone(
    tmp_path: Path, capfd, kind: type[UserError]
) -> None:
    reason = reason_sent(tmp_path, kind("/srv/berlin/germany.ledger.json is damaged"))
    assert reason == f"{kind.__name__}; the node's own log says why"
    assert "error: /srv/berlin/germany.ledger.json is damaged" in capfd.readouterr().err


def test_a_wrong_node_config_stays_with_its_owner(tmp_path: Path, capfd) -> None:
    grid = HomeGrid(tiny_config(), tmp_path)
    context = next(iter(grid.contexts.values()))
    context.node_config["data-path"] = "secret/survey.csv"
    message = Message(RecordDict(), context.node_id, records.DESCRIBE)
    (reply,) = grid.send_and_receive([message])
    assert reply.error.reason == "NodeConfigError; the node's own log says why"
    assert "data-path = 'secret/survey.csv': expected an absolute" in capfd.readouterr().err


@pytest.mark.parametrize("kind", [BudgetError, ConfigError, RoundError])
def test_refusals_are_sent_as_they_are(tmp_path: Path, kind: type[UserError]) -> None:
    assert reason_sent(tmp_path, kind("privacy.unit = 'none'")) == "privacy.unit = 'none'"


def test_an_unexpected_error_sends_its_type_and_place_alone(tmp_path: Path, capfd) -> None:
    reason = reason_sent(tmp_path, KeyError("Do you steal?"))
    assert reason.startswith("KeyError in test_node.py:")
    assert "steal" not in reason
    assert str(tmp_path) not in reason
    assert "Do you steal?" in capfd.readouterr().err


def test_a_refusal_is_sent_as_it_is(tmp_path: Path) -> None:
    assert reason_sent(tmp_path, BudgetError("epsilon is spent")) == "epsilon is spent"


def test_a_client_that_hangs_ends_with_a_traceback_when_nobody_waits_any_more() -> None:
    ended = hang({"data-path": "/x"})
    assert ended.returncode == 1
    assert "finished" not in ended.stdout
    assert "Timeout (0:00:00.3" in ended.stderr
    assert "limit_time" in ended.stderr


def test_a_simulations_process_is_left_alone() -> None:
    assert hang({"partition-id": 0}).stdout == "finished\n"


def test_a_node_answers_for_its_own_group_only(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path)
    for group, node_id in grid.node_of.items():
        message = Message(RecordDict(), node_id, records.DESCRIBE)
        (reply,) = grid.send_and_receive([message])
        assert reply.content["holdings"]["groups"] == [group]
