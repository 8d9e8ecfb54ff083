from flwr.app import Error

from server_app.sending import MAX_REASON, reason_of


def test_a_strangers_reason_is_one_printable_line_of_bounded_length() -> None:
    assert reason_of(Error(2, 'a\n{"event": 1}\x1b[2J\tb ')) == 'a {"event": 1} [2J b'
    long = reason_of(Error(2, "x" * 10_000_000))
    assert len(long) <= MAX_REASON
    assert long.endswith("x ...")
    assert reason_of(Error(5, "")) == "error code 5"
