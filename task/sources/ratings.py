"""`ratings`: scored responses to prompts, one row each, which are compared with each other.

Only scores that one rater gave to responses to one prompt are compared: scores of different raters
have no common scale. With a column `user` every user is a rater, otherwise the group is. Of every
two responses with different scores the higher one is chosen; then all is as with `pairs`.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from math import fsum

import pandas as pd

from task.config import DataConfig
from task.sources.files import client_names, numbers, read_dataset, require_columns
from task.sources.pairs import Comparison, cells, survey_of, text_in
from task.survey import Survey

TIES = "pairs of responses with equal scores"
ALONE = "responses that their rater compared with no other"


def load_ratings(data: DataConfig, seed: int) -> Survey:
    """Load `data.path`: columns `group, prompt, response, score`, and `user`.

    A response that the same rater scored several times has the mean of these scores. `user` is
    needed where clients are users.

    Raises:
        SurveyError: the file or a row is malformed.
    """
    return survey_from_ratings(read_dataset(data.path), data.path, by_user=data.by_user)


def survey_from_ratings(frame: pd.DataFrame, where: str, *, by_user: bool) -> Survey:
    """Build a survey from a table of ratings; `where` names it in errors."""
    require_columns(frame, ("group", "prompt", "response", "score"), where)
    dropped: Counter[str] = Counter()
    return survey_of(_comparisons(frame, where, by_user, dropped), dropped)


def _comparisons(
    frame: pd.DataFrame, where: str, by_user: bool, dropped: Counter[str]
) -> Iterator[Comparison]:
    clients = client_names(frame, where, by_user=by_user)
    raters = client_names(frame, where, by_user="user" in frame)
    prompts, responses = (cells(frame, column, where) for column in ("prompt", "response"))
    scores = numbers(frame, "score", where, positive=False)
    given: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    rows = zip(clients, raters, prompts, responses, scores, strict=True)
    for row, (client, rater, prompt, response, score) in enumerate(rows, start=1):
        place = f"{where}, data row {row}"
        rated = client, rater, text_in(prompt, "prompt", place)
        of_response = given.setdefault(rated, {})
        of_response.setdefault(text_in(response, "response", place), []).append(score)
    for (client, _, prompt), of_response in given.items():
        if len(of_response) == 1:
            dropped[ALONE] += 1
        means = {response: fsum(each) / len(each) for response, each in of_response.items()}
        for one, other in combinations(means, 2):
            if means[one] == means[other]:
                dropped[TIES] += 1
            else:
                chosen, rejected = (one, other) if means[one] > means[other] else (other, one)
                yield Comparison(client, prompt, chosen, rejected)
