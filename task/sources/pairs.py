"""`pairs`: comparisons, one row each: of two responses to a prompt, the chosen and the rejected.

A comparison is a question with two options, the responses in the order of their texts, so that
their places tell nothing. A group's answer distribution is how often it chose either.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from task.config import DataConfig
from task.conversation import Conversation, conversation_in, split_prompt, text_of
from task.errors import ConversationError, SurveyError
from task.sources.files import client_names, numbers, read_dataset, require_columns
from task.survey import Question, Survey, build_survey

SAME_RESPONSE = "comparisons of a response with itself"


class Comparison(NamedTuple):
    """One response preferred to another.

    Attributes:
        client: whose preference it is.
        prompt: what both responses answer.
        chosen: the better response, another text than `rejected`.
        rejected: the worse one.
        weight: how often, above 0.
    """

    client: str
    prompt: str
    chosen: str
    rejected: str
    weight: float = 1.0


def load_pairs(data: DataConfig, seed: int) -> Survey:
    """Load `data.path`: columns `group, chosen, rejected`, and `prompt`, `weight` and `user`.

    `prompt` may be missing where chosen and rejected begin with it. `user` is needed where clients
    are users.

    Raises:
        SurveyError: the file or a row is malformed.
    """
    return survey_from_pairs(read_dataset(data.path), data.path, by_user=data.by_user)


def survey_from_pairs(frame: pd.DataFrame, where: str, *, by_user: bool) -> Survey:
    """Build a survey from a table of comparisons; `where` names it in errors."""
    require_columns(frame, ("group", "chosen", "rejected"), where)
    dropped: Counter[str] = Counter()
    return survey_of(_comparisons(frame, where, by_user, dropped), dropped)


def survey_of(comparisons: Iterable[Comparison], dropped: Counter[str]) -> Survey:
    """Build a survey from comparisons; the same one of a client adds up.

    Args:
        comparisons: read once.
        dropped: what is left out meanwhile, by reason.

    Raises:
        SurveyError: there are none.
    """
    positions: dict[Question, int] = {}
    weights: dict[tuple[str, int], list[float]] = {}
    for each in comparisons:
        first, second = sorted((each.chosen, each.rejected))
        question = Question(each.prompt, (first, second))
        position = positions.setdefault(question, len(positions))
        of_options = weights.setdefault((each.client, position), [0.0, 0.0])
        of_options[each.chosen == second] += each.weight
    answers = ((client, position, given) for (client, position), given in weights.items())
    return build_survey(list(positions), answers, dropped, counts=True)


def text_in(conversation: Conversation, column: str, place: str) -> str:
    """Return the text of a prompt or response.

    Args:
        conversation: a text or messages.
        column: where it is from.
        place: the table and row, for errors.

    Raises:
        SurveyError: it is empty, or no conversation.
    """
    try:
        text = text_of(conversation)
    except ConversationError as error:
        raise SurveyError(f"{place}: column `{column}`: {error}") from None
    if not text:
        raise SurveyError(f"{place}: column `{column}` is empty. Expected a text.")
    return text


def cells(frame: pd.DataFrame, column: str, where: str) -> list[Any]:
    """Return a column's conversations; see `task.conversation.conversation_in`.

    Raises:
        SurveyError: one is missing; its row is named.
    """
    found = [conversation_in(cell) for cell in frame[column]]
    for row, cell in enumerate(found, start=1):
        if cell is None or (isinstance(cell, float) and cell != cell):
            raise SurveyError(
                f"{where}, data row {row}: column `{column}` is empty. Expected a text."
            )
    return found


def _comparisons(
    frame: pd.DataFrame, where: str, by_user: bool, dropped: Counter[str]
) -> Iterator[Comparison]:
    clients = client_names(frame, where, by_user=by_user)
    weighted = "weight" in frame
    weights = numbers(frame, "weight", where, positive=True) if weighted else [1.0] * len(frame)
    prompts = cells(frame, "prompt", where) if "prompt" in frame else [None] * len(frame)
    responses = (cells(frame, column, where) for column in ("chosen", "rejected"))
    rows = zip(clients, prompts, *responses, weights, strict=True)
    for row, (client, prompt, chosen, rejected, weight) in enumerate(rows, start=1):
        place = f"{where}, data row {row}"
        if chosen == rejected and not _is_blank(chosen):
            dropped[SAME_RESPONSE] += 1
            continue
        if prompt is None or _contain_prompt(prompt, chosen, rejected):
            prompt, chosen, rejected = _without_prompt(chosen, rejected, place)
        better, worse = text_in(chosen, "chosen", place), text_in(rejected, "rejected", place)
        text = text_in(prompt, "prompt", place)
        if better == worse:  # they differ in white space
            dropped[SAME_RESPONSE] += 1
        else:
            yield Comparison(client, text, better, worse, weight)


def _is_blank(cell: Any) -> bool:
    return not (cell.strip() if isinstance(cell, str) else cell)


def _contain_prompt(prompt: Any, chosen: Any, rejected: Any) -> bool:
    """Return whether responses are whole conversations beside a prompt that is a text.

    Some of TRL's data sets repeat the prompt so (its `maybe_extract_prompt`).
    """
    conversations = isinstance(chosen, list) and isinstance(rejected, list)
    return isinstance(prompt, str) and conversations and min(len(chosen), len(rejected)) > 1


def _without_prompt(
    chosen: Any, rejected: Any, place: str
) -> tuple[Conversation, Conversation, Conversation]:
    try:
        prompt, better, worse = split_prompt(chosen, rejected)
    except ConversationError as error:
        raise SurveyError(f"{place}: {error}") from None
    if _is_blank(prompt) and not (_is_blank(chosen) or _is_blank(rejected)):
        raise SurveyError(
            f"{place}: chosen and rejected begin with no common prompt. Expected both to begin "
            "with it, or a column prompt."
        )
    return prompt, better, worse
