import pytest

from task.comparisons import comparisons
from task.errors import RewardError
from task.survey import Question

PROMPTS = ["Tea?", "Milk?"]
RESPONSES = ["yes", "no"]


def asked(against):
    return [(c.question, c.index) for c in comparisons(PROMPTS, RESPONSES, against)]


def test_a_response_alone_is_the_only_option():
    assert asked(None) == [(Question("Tea?", ("yes",)), 0), (Question("Milk?", ("no",)), 0)]


def test_a_reference_comes_second():
    assert asked(["never", "a drop"]) == [
        (Question("Tea?", ("yes", "never")), 0),
        (Question("Milk?", ("no", "a drop")), 0),
    ]


def test_a_response_among_its_options_stays_at_its_place_and_others_come_first():
    assert asked([["maybe", "yes", "never"], ("some", "much", "some")]) == [
        (Question("Tea?", ("maybe", "yes", "never")), 1),
        (Question("Milk?", ("no", "some", "much")), 0),  # "some" is listed once
    ]


def test_references_and_option_sets_may_be_mixed():
    assert asked(["never", ["no", "much"]]) == [
        (Question("Tea?", ("yes", "never")), 0),
        (Question("Milk?", ("no", "much")), 0),
    ]


def test_nothing_to_compare_is_no_error():
    assert comparisons([], [], None) == []
    assert comparisons([], [], []) == []


@pytest.mark.parametrize(
    ("prompts", "responses", "against", "message"),
    [
        (["Tea?"], ["yes", "no"], None, "2 responses to 1 prompts"),
        (["Tea?"], ["yes"], ["no", "maybe"], "against has 2 entries for 1 responses"),
        (["Tea?"], [""], None, "response 0 is empty"),
        (["Tea?", "Milk?"], ["yes", " \n"], None, "response 1 is empty"),
        (["", "Milk?"], ["yes", "no"], None, "prompt 0 is empty"),
        (["Tea?"], [[{"role": "user", "content": "yes"}]], None, "response 0 is a list"),
        ([{"role": "user"}], ["yes"], None, "prompt 0 is a dict"),
        (["Tea?"], [None], None, "response 0 is a NoneType"),
        (["Tea?"], ["yes"], ["yes"], r"against\[0\] = \['yes'\] holds nothing but the response"),
        (["Tea?"], ["yes"], [["yes", "yes"]], "holds nothing but the response"),
        (["Tea?"], ["yes"], [[]], r"against\[0\] = \[\] holds nothing"),
        (["Tea?"], ["yes"], [""], r"against\[0\] = \[''\]: expected texts"),
        (["Tea?"], ["yes"], [["no", " "]], r"against\[0\] .*: expected texts"),
        (["Tea?"], ["yes"], [["no", 3]], r"against\[0\] .*: expected texts"),
        (["Tea?"], ["yes"], [None], r"against\[0\] = None: expected a text, or texts"),
        ("Tea?", "yes, ", None, "prompts is one text: expected a list"),
        (["T", "M"], "ny", None, "responses is one text: expected a list"),
        (["Tea?"], ["yes"], "n", "against is one text: expected a list"),
    ],
)
def test_what_cannot_be_compared_is_one_error(prompts, responses, against, message):
    with pytest.raises(RewardError, match=message) as caught:
        comparisons(prompts, responses, against)
    assert "\n" not in str(caught.value)
