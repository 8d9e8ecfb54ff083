import math

import numpy as np
import pytest
import torch

from alignment.rewards import GroupReward, PluralReward
from task.errors import ConfigError, RewardError
from tests.alignment.examples import make_reward_model


@pytest.fixture(scope="module")
def model():
    return make_reward_model()


class Log(dict):
    def __call__(self, name, value):
        self[name] = value


def share_of(model, prompt, options, index, group):
    return float(model.distribution(prompt, options, group=group)[index])


def log_odds(share):
    return math.log(share / (1 - share))


PROMPTS = ["Best drink?", "Best drink?", "Best drink?", "Best meal?", "Best meal?"]
COMPLETIONS = [" tea", "coffee", "tea", "rice", "bread"]


def test_other_completions_to_the_same_prompt_are_the_options(model):
    scores = GroupReward(model, "Japan")(PROMPTS, COMPLETIONS)
    tea = log_odds(share_of(model, "Best drink?", ["tea", "coffee"], 0, "Japan"))
    rice = log_odds(share_of(model, "Best meal?", ["rice", "bread"], 0, "Japan"))
    assert scores == pytest.approx([tea, -tea, tea, rice, -rice], abs=1e-4)


def test_each_row_is_scored_for_its_own_group(model):
    prompts, completions = ["Q?"] * 2, ["a", "b"]
    scores = GroupReward(model, column="country")(prompts, completions, country=["Japan", "Kenya"])
    expected = [
        log_odds(share_of(model, "Q?", ["a", "b"], 0, "Japan")),
        log_odds(share_of(model, "Q?", ["a", "b"], 1, "Kenya")),
    ]
    assert scores == pytest.approx(expected, abs=1e-4)


def test_conversations_are_scored_as_their_text(model):
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    completions = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    reward = GroupReward(model, "Brazil")
    assert reward(prompts, completions) == reward(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    "reference",
    ["water", ["water"], [{"role": "assistant", "content": "water"}]],
    ids=["text", "several", "conversation"],
)
def test_a_column_holds_what_completions_are_compared_with(model, reference):
    reward = GroupReward(model, "Kenya", against="reference")
    (score,) = reward(["Best drink?"], ["tea"], reference=[reference])
    expected = log_odds(share_of(model, "Best drink?", ["tea", "water"], 0, "Kenya"))
    assert score == pytest.approx(expected, abs=1e-4)


def test_without_comparison_differences_of_scores_are_log_odds(model):
    first, second = GroupReward(model, "Kenya", against=None)(["Q?"] * 2, ["a", "b"])
    expected = log_odds(share_of(model, "Q?", ["a", "b"], 0, "Kenya"))
    assert first - second == pytest.approx(expected, abs=1e-4)


def test_empty_completions_get_the_floor_and_are_counted(model):
    log = Log()
    empty = [{"role": "assistant", "content": " "}]
    reward = GroupReward(model, "Japan", floor=-7.0)
    prompts = [[{"role": "user", "content": "Q?"}]] * 4
    says = [[{"role": "assistant", "content": text}] for text in ("a", "b")]
    scores = reward(prompts, [*says, empty, []], log_metric=log)
    a = log_odds(share_of(model, "Q?", ["a", "b"], 0, "Japan"))
    assert scores == pytest.approx([a, -a, -7, -7], abs=1e-4)
    assert log == {"reward of Japan/floored": 0.5}
    assert (reward.num_floored, reward.num_completions) == (2, 4)
    assert GroupReward(model, "Japan")(["Q?"], [""]) == [-10.0]


def test_no_completion_scores_below_an_empty_one(model):
    a = log_odds(share_of(model, "Q?", ["a", "b"], 0, "Japan"))
    floor = -abs(a) / 2
    scores = GroupReward(model, "Japan", floor=floor)(["Q?"] * 2, ["a", "b"])
    assert sorted(scores) == pytest.approx([floor, abs(a)], abs=1e-4)


def test_completions_that_do_not_differ_get_zero(model):
    assert GroupReward(model, "Japan")(["Q?", "Q?", "R?"], ["a", "a", "b"]) == [0, 0, 0]


def test_several_groups_are_aggregated(model):
    prompts, completions = ["Q?"] * 3, ["a", "b", "c"]
    scores = model.scores(prompts, completions, ("Brazil", "Kenya"), against=[["a", "b", "c"]] * 3)
    for rule, expected in (("mean", scores.mean(1)), ("min", scores.amin(1))):
        reward = PluralReward(model, ["Brazil", "Kenya"], aggregation=rule)
        torch.testing.assert_close(torch.tensor(reward(prompts, completions)), expected)
    everybody = PluralReward(model, aggregation=lambda scores, groups: np.full(3, len(groups)))
    assert everybody(prompts, completions) == [3, 3, 3]


def test_names_tell_what_is_rewarded(model):
    assert GroupReward(model, "Japan").__name__ == "reward of Japan"
    assert GroupReward(model).__name__ == "reward of own group"
    assert PluralReward(model, aggregation="min").__name__ == "min reward"


def test_time_spent_is_kept(model):
    reward = GroupReward(model, "Japan")
    reward(PROMPTS, COMPLETIONS)
    first = reward.seconds
    reward(PROMPTS, COMPLETIONS)
    assert 0 < first < reward.seconds


def test_unknown_groups_are_named_with_those_known(model):
    with pytest.raises(RewardError, match=r"Unknown group 'Japn'. Did you mean 'Japan'\?"):
        GroupReward(model, "Japn")
    with pytest.raises(RewardError, match="Here: 'Brazil', 'Japan', 'Kenya'"):
        GroupReward(model)(["Q?"] * 2, ["a", "b"], group=["Japan", "Peru"])
    with pytest.raises(RewardError, match="Unknown group"):
        PluralReward(model, ["Peru"])
    with pytest.raises(RewardError, match="No group is named"):
        PluralReward(model, [])


def test_missing_columns_are_named_with_those_there(model):
    with pytest.raises(RewardError, match=r"no column 'group'.*each row's group.*\(.*topic\)"):
        GroupReward(model)(["Q?"] * 2, ["a", "b"], topic=["x", "y"], trainer_state=object())
    with pytest.raises(RewardError, match="no column 'reference'"):
        GroupReward(model, "Japan", against="reference")(["Q?"], ["a"])
    with pytest.raises(RewardError, match=r"row 0 of the column 'reference' is \[\]"):
        GroupReward(model, "Japan", against="reference")(["Q?"], ["a"], reference=[[]])


def test_impossible_settings_are_refused(model):
    with pytest.raises(RewardError, match="floor = 0"):
        GroupReward(model, "Japan", floor=0)
    with pytest.raises(ConfigError, match="against = None"):
        PluralReward(model, against=None)
    with pytest.raises(ConfigError, match="Unknown aggregation 'maen'"):
        PluralReward(model, aggregation="maen")
