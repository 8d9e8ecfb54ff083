import pytest

from task.clients import group_of, members, user_client
from task.config import DataConfig
from task.errors import SurveyError

USERS = DataConfig(source="pairs", path="pairs.csv", clients="users")


def test_a_users_client_is_named_after_group_and_user():
    assert user_client("Black / African", "u1") == "Black / African/u1"
    assert group_of("Black / African/u1", USERS) == "Black / African"


def test_where_clients_are_groups_a_client_is_its_group():
    assert group_of("North/East", DataConfig()) == "North/East"


def test_groups_and_their_clients_are_in_name_order():
    clients = ["South/u2", "North b/u1", "South/u1", "North/u3"]
    assert list(members(clients, USERS).items()) == [
        ("North", ["North/u3"]),
        ("North b", ["North b/u1"]),
        ("South", ["South/u1", "South/u2"]),
    ]


def test_a_user_with_the_separator_is_an_error():
    with pytest.raises(SurveyError, match=r"User 'a/b' of group 'North': expected a name without"):
        user_client("North", "a/b")
