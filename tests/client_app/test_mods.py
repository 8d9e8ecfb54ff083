import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from client_app.mods import report_errors
from task import records
from task.errors import SurveyError
from tests.server_app.in_process_grid import InProcessGrid, tiny_config


def reply_to_a_raising_handler(error: BaseException) -> Message:
    grid = InProcessGrid(tiny_config(), 1)
    (context,) = grid.contexts.values()
    message = Message(RecordDict(), context.node_id, "train")

    def handler(message: Message, context: object) -> Message:
        raise error

    return report_errors(message, context, handler)


def test_a_users_error_is_passed_on_as_it_is() -> None:
    reply = reply_to_a_raising_handler(SurveyError("Row 3 is empty."))
    assert reply.error.reason == "Row 3 is empty."
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def test_any_other_error_is_passed_on_with_its_type_and_place(
    capfd: pytest.CaptureFixture,
) -> None:
    reply = reply_to_a_raising_handler(ZeroDivisionError("no people"))
    assert reply.error.reason.startswith("ZeroDivisionError: no people (")
    assert f"{__file__}:" in reply.error.reason
    assert "Traceback" in capfd.readouterr().err


def test_the_end_of_the_process_is_not_held_up() -> None:
    with pytest.raises(KeyboardInterrupt):
        reply_to_a_raising_handler(KeyboardInterrupt())


def test_a_valid_reply_passes_unchanged() -> None:
    grid = InProcessGrid(tiny_config(), 1)
    (context,) = grid.contexts.values()
    reply = Message(RecordDict(), context.node_id, "train")
    assert report_errors(reply, context, lambda message, context: message) is reply


def test_the_client_app_reports_errors() -> None:
    grid = InProcessGrid(tiny_config(), 1)
    (context,) = grid.contexts.values()
    context.run_config["train.num-round"] = 3
    message = Message(RecordDict(), context.node_id, records.DESCRIBE)
    (reply,) = grid.send_and_receive([message])
    assert "Unknown config key 'train.num-round'" in reply.error.reason
    assert "Did you mean 'train.num-rounds'?" in reply.error.reason
