"""Conversations as TRL's data sets give them, and the one way in which they become text.

A conversation is a list of messages `{"role": ..., "content": ...}`. Whatever compares responses,
when a predictor is trained and when it scores, turns prompts and responses into text here.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from task.errors import ConversationError

Conversation = str | Sequence[Mapping[str, Any]]
"""A text, or messages in order."""

_WORD = re.compile(r"\s*\S+")
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")


def text_of(conversation: Conversation) -> str:
    """Return a prompt or response as text, without white space around it.

    - a text: itself;
    - a single message, whoever says it: its content;
    - several messages: a line "role: content" for each.

    A message's content is a text, or parts `{"type": "text", "text": ...}`, which are joined.

    Raises:
        ConversationError: it is neither a text nor messages with a role and a text.
    """
    if isinstance(conversation, str):
        return conversation.strip()
    if not isinstance(conversation, list | tuple):
        raise ConversationError(
            f"{_shortened(conversation)} is a {type(conversation).__name__}: expected a text, or a "
            "list of messages with role and content."
        )
    turns = [(_role(message), _content(message)) for message in conversation]
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {content}" for role, content in turns)


def conversation_in(cell: Any) -> Any:
    """Return what a table's cell holds: messages, if it is a conversation or the text of one.

    A CSV file holds conversations as JSON, or as pandas writes lists (Python literals). Other
    texts, and what is no conversation at all, stay as they are.
    """
    if isinstance(cell, np.ndarray):  # pandas' lists
        return _plain(cell)
    if isinstance(cell, str) and _LIST_OF_OBJECTS.match(cell):
        for parse in (json.loads, ast.literal_eval):
            try:
                parsed = parse(cell.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if all(isinstance(each, dict) and {"role", "content"} <= set(each) for each in parsed):
                return parsed
    return cell


def split_prompt(
    chosen: Conversation, rejected: Conversation
) -> tuple[Conversation, Conversation, Conversation]:
    """Return prompt, chosen and rejected of TRL's implicit-prompt form: the prompt begins both.

    The prompt is all messages, or all words, that the two begin with alike, but leaves something of
    either. (TRL compares texts letter by letter, which can end a prompt within a word.)

    Raises:
        ConversationError: one is a text and the other is not.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        words, others = _WORD.findall(chosen), _WORD.findall(rejected)
        shared = _num_shared(words, others)
        return "".join(words[:shared]), "".join(words[shared:]), "".join(others[shared:])
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise ConversationError(
            "one of chosen and rejected is a text and the other is not: expected two texts, or two "
            "lists of messages."
        )
    shared = _num_shared(chosen, rejected)
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _plain(value: Any) -> Any:
    """Return arrays as lists, however deep, so that conversations can be compared."""
    if isinstance(value, np.ndarray | list):
        return [_plain(each) for each in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _num_shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many parts two sequences begin with alike, short of all of either."""
    most = max(0, min(len(one), len(other)) - 1)
    return next((i for i in range(most) if one[i] != other[i]), most)


def _role(message: Any) -> str:
    if not (isinstance(message, Mapping) and isinstance(message.get("role"), str)):
        raise ConversationError(
            f"{_shortened(message)} is no message: expected one with a role and a content."
        )
    return str(message["role"]).strip()


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, Sequence) and content:
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return " ".join(str(part).strip() for part in parts)
    raise ConversationError(
        f"{_shortened(message)} has a content that is no text: expected texts only, no images, "
        "tool calls or empty contents."
    )


def _shortened(value: Any, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."


def text_or_empty(completion: Conversation) -> str:
    """Return a completion as text; empty: it holds none, which `text_of` takes for an error."""
    if isinstance(completion, str):
        return text_of(completion)
    contents = [message.get("content") for message in completion]
    blank = all(
        content is None or (isinstance(content, str) and not content.strip())
        for content in contents
    )
    return "" if blank else text_of(completion)
