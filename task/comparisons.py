"""What a response is compared with: it becomes an option of its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from task.errors import RewardError
from task.survey import Question

Against = Sequence[str] | Sequence[Sequence[str]]
"""For each response what it is compared with: a reference response, or the other options."""

FLOOR = -10.0
"""Score of a completion that cannot be scored; log-odds and log shares: 1 in 22,000."""


@dataclass(frozen=True)
class Comparison:
    """A response as an option.

    Attributes:
        question: the prompt, with the response and what it is compared with as options.
        index: which of the options is the response.
    """

    question: Question
    index: int


def comparisons(
    prompts: Sequence[str], responses: Sequence[str], against: Against | None
) -> list[Comparison]:
    """Return one comparison per response.

    A response that is among the options it is compared with stays at its place: an encoder's text
    may list all options in order. Another one is put first.

    Args:
        prompts: the prompts.
        responses: a response to each.
        against: what each is compared with; None: nothing, the response is the only option.

    Raises:
        RewardError: lengths differ, a text is empty or none, or a response has nothing to be
            compared with.
    """
    for name, given in (("prompts", prompts), ("responses", responses), ("against", against)):
        if isinstance(given, str):  # its letters would pass for a list of texts
            raise RewardError(f"{name} is one text: expected a list, one entry for each response.")
    if len(prompts) != len(responses):
        raise RewardError(
            f"{len(responses)} responses to {len(prompts)} prompts: expected as many."
        )
    if against is not None and len(against) != len(responses):
        raise RewardError(
            f"against has {len(against)} entries for {len(responses)} responses: expected one each."
        )
    compared = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        for name, text in (("prompt", prompt), ("response", response)):
            if not isinstance(text, str):
                raise RewardError(
                    f"{name} {row} is a {type(text).__name__}: expected a text. Messages become "
                    "one with task.conversation.text_of."
                )
            if not text.strip():
                raise RewardError(f"{name} {row} is empty: expected a text. Leave it out.")
        if against is None:
            compared.append(Comparison(Question(prompt, (response,)), 0))
        else:
            compared.append(_comparison(prompt, response, against[row], row))
    return compared


def _comparison(prompt: str, response: str, against: str | Sequence[str], row: int) -> Comparison:
    if not isinstance(against, Sequence):
        raise RewardError(f"against[{row}] = {against!r}: expected a text, or texts.")
    others = (against,) if isinstance(against, str) else tuple(dict.fromkeys(against))
    if not all(isinstance(other, str) and other.strip() for other in others):
        raise RewardError(f"against[{row}] = {list(others)!r}: expected texts, none of them empty.")
    options = others if response in others else (response, *others)
    if len(options) < 2:
        raise RewardError(
            f"against[{row}] = {list(others)!r} holds nothing but the response: expected another "
            "text to compare it with."
        )
    return Comparison(Question(prompt, options), options.index(response))
