import pytest

from task import errors


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fedavgg", " Did you mean 'fedavg'?"),
        ("fedprx", " Did you mean 'fedprox'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_closest_known_name_is_suggested(name, expected):
    assert errors.suggest(name, (known for known in ("fedavg", "fedprox"))) == expected


def test_every_error_is_one_a_user_can_put_right():
    here = [item for item in vars(errors).values() if item.__class__ is type]
    kinds = [kind for kind in here if kind.__module__ == errors.__name__]
    assert len(kinds) > 4
    assert all(issubclass(kind, errors.UserError) for kind in kinds)
