"""A survey question as a prompt, and the answers to it.

The answer is a single token, the option's letter, so that a language model's answer distribution is
exact: its next-token probabilities after the prompt.

A letter follows its option, where a causal model has read the option already: what the letter's
token stands for is known there, and answering is to choose among these tokens. With letters before
the options a small model made from a config does not learn which letter stands for what.
"""

import re
import string
from collections.abc import Sequence

from task.survey import Question

LETTERS = string.ascii_uppercase
"""Labels of options, in order; a question with more options cannot be asked."""

_LABEL = re.compile(r"\(?([A-Z])\)?[.):]?(?:\s+(.*))?", re.DOTALL)


def prompt_of(question: Question) -> str:
    """Return a question as a prompt, which ends where the answer's letter follows."""
    return _prompt(f"Question: {question.text}", question.options)


def exercise_of(question: Question) -> str:
    """Return a question to a made-up person, by which a made model learns to read options."""
    return _prompt(f"A made-up person. Question: {question.text}", question.options)


def _prompt(first: str, options: Sequence[str]) -> str:
    lines = [f"{option}: {letter}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([first, *lines, "Answer:"])


def answers_of(question: Question) -> list[str]:
    """Return what is appended to the prompt for each option."""
    return [f" {letter}" for letter in LETTERS[: len(question.options)]]


def chosen_option(answer: str, options: tuple[str, ...]) -> int | None:
    """Return which option an answer names, by its letter, its text, or both; None: none of them.

    "B", "B.", "(B)", "B. Coffee" and "coffee" name the second option of (Tea, Coffee). Where a text
    is also another option's letter, the letter counts, as options are asked by letter.
    """
    text = answer.strip()
    by_text = {_plain(option): index for index, option in reversed(list(enumerate(options)))}
    if found := _LABEL.fullmatch(text):
        index = LETTERS.index(found[1])
        rest = found[2]
        if index < len(options) and (not rest or _plain(rest) == _plain(options[index])):
            return index
    return by_text.get(_plain(text))


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()
