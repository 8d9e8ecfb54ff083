from pathlib import Path

import pytest

from task.config import NODES, RunConfig
from task.data_check import CheckedGroup, check_data, what_leaves, what_stays
from task.errors import ConfigError, SurveyError
from task.node_config import NodeConfig, asked_only
from task.settings import Scalar

SMALL: dict[str, Scalar] = {
    "data.source": NODES,
    "encoder.dimension": 8,
    "evaluation.num-context": 5,
    "predictor.width": 16,
    "predictor.num-layers": 1,
    "predictor.num-heads": 2,
    "predictor.feedforward-width": 16,
}


def config(**changes: Scalar) -> RunConfig:
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return RunConfig.from_flat({**SMALL, **named})


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    rows = ["group,question,option,count"]
    for group, questions in (("Germany", 20), ("Japan", 4)):
        for number in range(questions):
            options = ("yes", "no", "perhaps") if number % 2 else ("yes", "no")
            rows += [f"{group},Is {number} odd?,{option},{number + 1}" for option in options]
    rows += ["Germany,Nobody asked,yes,0", "Germany,Nobody asked,no,0"]
    (tmp_path / "survey.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "survey.csv"


def node(survey: Path, **more: Scalar) -> NodeConfig:
    return NodeConfig(data_path=str(survey), **{"group": "Germany", **more})  # type: ignore[arg-type]


def leaves(survey: Path, settings: RunConfig, **more: Scalar) -> str:
    served = node(survey, **more)
    return "\n".join(what_leaves(check_data(served, settings), served, settings))


def test_a_usable_file_is_counted(survey: Path) -> None:
    check = check_data(node(survey), config())
    assert check.in_file == {"Germany": 20, "Japan": 4}
    assert check.dropped == {"all-zero distributions": 1}
    assert check.groups == (CheckedGroup("Germany", "train", 20, 50, 2),)
    assert check.feature_dimension == 8


def test_a_held_out_group_holds_nothing_back(survey: Path) -> None:
    check = check_data(node(survey, role="held-out"), config())
    assert check.groups == (CheckedGroup("Germany", "held-out", 20, 50, 0),)


@pytest.mark.parametrize(
    ("group", "settings", "message"),
    [
        ("Gremany", {}, "Did you mean 'Germany'"),
        ("Japan", {}, "has 4 answered questions"),
        ("Germany", {"evaluation__num_context": 30}, "expected at least"),
    ],
)
def test_what_makes_it_unusable_is_said(
    survey: Path, group: str, settings: dict[str, Scalar], message: str
) -> None:
    with pytest.raises(SurveyError, match=message):
        check_data(node(survey, group=group), config(**settings))


def test_a_file_of_shares_needs_declared_respondents_for_unit_member(survey: Path) -> None:
    survey.write_text(survey.read_text().replace(",count", ",share"))
    text = "group,question,option,share\n"
    text += "".join(f"Germany,Q{n},{o},0.5\n" for n in range(20) for o in ("yes", "no"))
    survey.write_text(text)
    settings: dict[str, Scalar] = {"privacy__unit": "member", "privacy__noise_multiplier": 1.0}
    with pytest.raises(ConfigError, match="respondents"):
        check_data(node(survey), config(**settings))
    check_data(node(survey), config(privacy__respondents=100, **settings))


def test_with_settings_of_any_kind_only_the_file_is_checked(survey: Path) -> None:
    assert asked_only(node(survey, group="Japan")) == {"Japan": 4}
    with pytest.raises(ConfigError, match="holds 2 groups"):
        asked_only(node(survey, group=""))


def test_what_leaves_is_counted_for_this_file(survey: Path) -> None:
    check = check_data(node(survey), config())
    said = leaves(survey, config())
    assert "64-bit hashes of 20 questions" in said
    assert "features of 50 texts (1 + 2 x 8 numbers)" in said
    assert f"parameters of the predictor ({check.num_parameters:,} numbers; exact)" in said
    assert "questions that it trains on (Germany: 18)" in said
    assert "ANSWERS" not in said


def test_a_held_out_group_sends_scores_and_hashes_only(survey: Path) -> None:
    said = leaves(survey, config(), role="held-out")
    assert "hashes of 20 questions" in said
    assert "each evaluation" in said
    assert "training round" not in said
    assert "features" not in said


def test_answers_leave_only_where_the_owner_lets_them(survey: Path) -> None:
    asks = config(predictor__population_weight=2.0)
    with pytest.raises(ConfigError, match="which this node does not allow"):
        leaves(survey, asks)
    served = node(survey, disclose_answers=True)
    check = check_data(served, asks)
    assert "ITS ANSWERS, 50 shares (" in "\n".join(what_leaves(check, served, asks))
    assert not any("answers" in item for item in what_stays(check, served, asks))


@pytest.mark.parametrize(
    ("settings", "sent", "stays"),
    [
        ({}, "computed from ITS EXACT ANSWERS", "but for what scores tell of them"),
        (
            {"privacy__unit": "member", "privacy__noise_multiplier": 1.0},
            "computed from answers with noise",
            "exact answers and counts",
        ),
    ],
)
def test_scores_leave_only_where_the_owner_lets_them(
    survey: Path, settings: dict[str, Scalar], sent: str, stays: str
) -> None:
    assert "one number per response" not in leaves(survey, config(**settings))
    assert sent in leaves(survey, config(**settings), allow_scoring=True)
    served = node(survey, allow_scoring=True)
    check = check_data(served, config(**settings))
    assert stays in "\n".join(what_stays(check, served, config(**settings)))


def test_units_that_do_not_account_for_scores_send_none(survey: Path) -> None:
    settings = config(privacy__unit="client", strategy__clipping_norm=1.0)
    assert "one number per response" not in leaves(survey, settings, allow_scoring=True)


@pytest.mark.parametrize(
    ("settings", "said", "unsaid"),
    [
        ({"privacy__metrics": "off"}, "mean loss", "evaluation"),
        (
            {"privacy__secure_aggregation": True},
            "masked: the server learns sums over clients only",
            "mean loss",
        ),
        (
            {"privacy__unit": "client", "strategy__clipping_norm": 1.0},
            "exact: the server adds the noise",
            "DP-SGD",
        ),
        (
            {"privacy__unit": "question", "privacy__metrics": "noisy"},
            "one alignment score with noise",
            "mean loss",
        ),
        ({"compression__name": "int8"}, "compressed (int8)", "masked"),
    ],
)
def test_privacy_settings_change_what_leaves(
    survey: Path, settings: dict[str, Scalar], said: str, unsaid: str
) -> None:
    text = leaves(survey, config(**settings))
    assert said in text
    assert unsaid not in text


def test_other_groups_of_the_file_stay(survey: Path) -> None:
    served = node(survey)
    stays = what_stays(check_data(served, config()), served, config())
    assert "all about the file's other groups: Japan" in stays
    assert "answers: single ones, counts and shares alike" in stays
