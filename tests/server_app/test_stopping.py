import pytest
from flwr.supercore.exit import exit_handler

from server_app import stopping
from server_app.stopping import called_when_stopped


def test_flower_calls_what_is_to_be_done_within_the_block_only() -> None:
    called: list[int] = []
    with called_when_stopped(lambda: called.append(1), lambda: called.append(2)):
        registered = [each.exit_handler for each in exit_handler.registered_exit_handlers]
        assert registered.count(stopping._call_all) == 1
        stopping._call_all()
    assert called == [1, 2]
    stopping._call_all()
    assert called == [1, 2]


def test_one_that_fails_does_not_keep_the_others_from_being_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    called: list[int] = []

    def fail() -> None:
        raise ValueError("disk")

    with called_when_stopped(fail, lambda: called.append(1)):
        stopping._call_all()
    assert called == [1]
    assert "ValueError: disk" in capsys.readouterr().err
