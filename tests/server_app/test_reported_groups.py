import pytest

from server_app.reported_groups import ReportedGroups
from task.config import DataConfig
from task.metrics import Calibration, GroupScores, Mean

USERS = DataConfig(source="pairs", path="pairs.csv", clients="users")
ROLES = {"A/1": "train", "A/2": "train", "B/1": "held-out"}


def scores(total, weight, new=Mean(), options=0.0):  # noqa: B008 (a Mean cannot be changed)
    calibration = Calibration(options=(options,) + (0.0,) * 9)
    return GroupScores(all=Mean(total, weight), new=new, calibration=calibration)


def test_groups_that_are_clients_are_told_of_as_they_are():
    reported = ReportedGroups.of({"A/1": "train", "B": "held-out"}, DataConfig())
    of_clients = {"A/1": scores(1.0, 2.0)}
    assert reported.are_clients
    assert reported.roles == {"A/1": "train", "B": "held-out"}
    assert reported.scores(of_clients) is of_clients
    assert reported.means({"A/1": 0.5}) == {"A/1": 0.5}
    assert reported.sums({"A/1": 0.5}) == {"A/1": 0.5}


def test_a_groups_score_is_the_mean_over_its_users_whatever_they_answered():
    reported = ReportedGroups.of(ROLES, USERS)
    assert not reported.are_clients
    assert reported.roles == {"A": "train", "B": "held-out"}
    told = reported.scores(
        {
            "A/1": scores(9.0, 10.0, new=Mean(1.0, 4.0), options=3.0),  # mean 0.9, new 0.25
            "A/2": scores(0.5, 1.0, options=4.0),  # mean 0.5, nothing new
            "B/1": scores(1.5, 2.0),
        }
    )
    assert list(told) == ["A", "B"]
    assert told["A"].all.value == pytest.approx(0.7)
    assert told["A"].new.value == 0.25
    assert told["A"].seen.weight == 0
    assert told["A"].calibration.options[0] == 7
    assert told["B"].all.value == 0.75


def test_a_user_without_a_score_does_not_count():
    reported = ReportedGroups.of(ROLES, USERS)
    told = reported.scores({"A/2": scores(0.5, 1.0)})
    assert told.keys() == {"A"}
    assert told["A"].all.value == 0.5
    assert reported.sizes(["A/2"]) == {"A": 1}


def test_means_and_sums_are_over_users():
    reported = ReportedGroups.of(ROLES, USERS)
    values = {"A/1": 0.25, "A/2": 0.5, "B/1": 0.25}
    assert reported.means(values) == {"A": 0.375, "B": 0.25}
    assert reported.sums(values) == {"A": 0.75, "B": 0.25}


def test_held_out_users_of_a_group_that_trains_are_told_of_apart():
    reported = ReportedGroups.of({**ROLES, "A/3": "held-out"}, USERS)
    assert reported.roles == {"A": "train", "B": "held-out", "A (held out)": "held-out"}
    assert reported.means({"A/1": 0.2, "A/3": 0.8}) == {"A": 0.2, "A (held out)": 0.8}
