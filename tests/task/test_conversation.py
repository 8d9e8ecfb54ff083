import json

import numpy as np
import pytest

from task.conversation import conversation_in, split_prompt, text_of
from task.errors import ConversationError

ASK = {"role": "user", "content": " Tea or coffee? "}
TEA = {"role": "assistant", "content": "Tea."}
COFFEE = {"role": "assistant", "content": "Coffee."}


@pytest.mark.parametrize(
    ("conversation", "text"),
    [
        (" as it is \n", "as it is"),
        ([ASK], "Tea or coffee?"),
        ([TEA], "Tea."),
        ([ASK, TEA], "user: Tea or coffee?\nassistant: Tea."),
        (
            [{"role": "system", "content": "Be brief."}, ASK],
            "system: Be brief.\nuser: Tea or coffee?",
        ),
        ((ASK,), "Tea or coffee?"),
        (
            [{"role": "user", "content": [{"type": "text", "text": t} for t in ("a ", "b")]}],
            "a b",
        ),
        ([], ""),
        ("", ""),
    ],
)
def test_a_conversation_is_one_text(conversation, text):
    assert text_of(conversation) == text


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        (7, "7 is a int: expected a text, or a list"),
        (None, "is a NoneType"),
        (["hello"], "'hello' is no message"),
        ([{"content": "hello"}], "is no message: expected one with a role"),
        ([{"role": "user"}], "content that is no text"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "content that is no text"),
        ([{"role": "user", "content": []}], "content that is no text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content that is no text"),
        ([{"role": "user", "content": [{"type": "image", "text": None}]}], "no text"),
    ],
)
def test_what_is_no_conversation_is_an_error_that_shows_it(conversation, message):
    with pytest.raises(ConversationError, match=message):
        text_of(conversation)


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps([ASK, TEA]),
        f" {json.dumps([ASK, TEA], indent=1)}\n",
        str([ASK, TEA]),
        np.array([ASK, TEA], dtype=object),
        [ASK, TEA],
    ],
    ids=["JSON", "indented JSON", "Python's repr", "array", "list"],
)
def test_a_cell_with_a_conversation_gives_its_messages(cell):
    assert conversation_in(cell) == [ASK, TEA]


@pytest.mark.parametrize(
    "cell", ["text", "[{", '[{"a": 1}]', '[{"role": "user"}]', "[{x} for x in y]", "[1]", "", None]
)
def test_a_cell_without_a_conversation_stays_as_it_is(cell):
    assert conversation_in(cell) == cell


@pytest.mark.parametrize(
    ("chosen", "rejected", "parts"),
    [
        ([ASK, TEA], [ASK, COFFEE], ([ASK], [TEA], [COFFEE])),
        ([ASK, TEA, ASK, TEA], [ASK, TEA, ASK], ([ASK, TEA], [ASK, TEA], [ASK])),
        ([TEA], [COFFEE], ([], [TEA], [COFFEE])),
        ("The sky is blue.", "The sky is black.", ("The sky is", " blue.", " black.")),
        ("Yes or no? Yes", "Yes or no? Yes!", ("Yes or no?", " Yes", " Yes!")),
        ("A b", "A b c", ("A", " b", " b c")),
        ("blue", "black", ("", "blue", "black")),
    ],
)
def test_the_prompt_is_what_both_begin_with(chosen, rejected, parts):
    assert split_prompt(chosen, rejected) == parts


def test_a_text_and_messages_have_no_common_prompt():
    with pytest.raises(ConversationError, match="one of chosen and rejected is a text"):
        split_prompt("Tea or coffee? Tea.", [ASK, TEA])
