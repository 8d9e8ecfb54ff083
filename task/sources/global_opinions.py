"""`global-opinions`: GlobalOpinionQA (Pew Global Attitudes and World Values Survey).

Durmus et al., "Towards Measuring the Representation of Subjective Global Opinions in Language
Models", arXiv 2306.16388; on the Hugging Face hub as `Anthropic/llm_global_opinions`.
"""

import ast
import re
from collections import Counter
from typing import Any

import pandas as pd

from task.config import DataConfig
from task.errors import SurveyError
from task.sources.files import read_frame, require_columns
from task.survey import Question, Survey, build_survey

HUB_DATASET = "Anthropic/llm_global_opinions"
_DEFAULTDICT = re.compile(r"defaultdict\(<class 'list'>,\s*(\{.*\})\)", re.DOTALL)


def load_global_opinions(data: DataConfig, seed: int) -> Survey:
    """Load the data set from `data.path`, or from the hub when that is empty.

    Rows with an empty question or fewer than two options, all-zero distributions and repeated
    (question, country) answers are dropped and counted.

    Raises:
        SurveyError: the data set cannot be read, or `selections` or `options` is malformed.
    """
    frame = read_frame(data.path) if data.path else _from_hub()
    where = data.path or HUB_DATASET
    require_columns(frame, ("question", "selections", "options"), where)

    dropped: Counter[str] = Counter()
    positions: dict[Question, int] = {}
    answers: dict[tuple[str, int], list[float]] = {}
    columns = zip(frame["question"], frame["selections"], frame["options"], strict=True)
    for row, (text, selections, options) in enumerate(columns, start=1):
        shares_by_group = _selections(selections, f"{where}, row {row}")
        labels = _options(options, f"{where}, row {row}")
        if pd.isna(text) or not str(text).strip():
            dropped["answers to empty questions"] += len(shares_by_group)
            continue
        if len(labels) < 2:
            dropped["answers to questions with fewer than two options"] += len(shares_by_group)
            continue
        question = Question(str(text).strip(), labels)
        position = positions.setdefault(question, len(positions))
        for group, shares in shares_by_group.items():
            if (group, position) in answers:
                dropped["repeated (question, country) answers, the first is kept"] += 1
            else:
                answers[group, position] = shares
    return build_survey(
        list(positions),
        ((group, position, shares) for (group, position), shares in answers.items()),
        dropped,
    )


def _from_hub() -> pd.DataFrame:
    from datasets import load_dataset  # slow to import, and only needed here

    try:
        frame: pd.DataFrame = load_dataset(HUB_DATASET, split="train").to_pandas()
    except Exception as error:  # hub, network and cache failures share no base class
        raise SurveyError(
            f"{HUB_DATASET} cannot be loaded from the Hugging Face hub ({error}). Without network "
            "access, give a local copy (CSV or Parquet) in data.path."
        ) from error
    return frame


def _selections(value: Any, where: str) -> dict[str, list[float]]:
    """Parse the text of a Python `defaultdict(list)` from country to shares."""
    parsed = value
    if isinstance(value, str):
        match = _DEFAULTDICT.fullmatch(value.strip())
        parsed = _literal(match.group(1) if match else value, "selections", where)
    shares_are_lists = isinstance(parsed, dict) and all(
        isinstance(shares, list) and all(isinstance(share, int | float) for share in shares)
        for shares in parsed.values()
    )
    if not shares_are_lists:
        raise SurveyError(
            f"{where}: malformed `selections` {_shortened(value)}. Expected a dictionary from "
            "country to a list of shares."
        )
    return {str(group).strip(): shares for group, shares in parsed.items()}


def _options(value: Any, where: str) -> tuple[str, ...]:
    """Parse the text of a Python list; scale points stored as floats (1.0) become "1"."""
    parsed = _literal(value, "options", where) if isinstance(value, str) else value
    if not isinstance(parsed, list) or not all(isinstance(o, str | int | float) for o in parsed):
        raise SurveyError(
            f"{where}: malformed `options` {_shortened(value)}. Expected a list of texts."
        )
    return tuple(
        str(int(o)) if isinstance(o, float) and o.is_integer() else str(o).strip() for o in parsed
    )


def _literal(text: str, column: str, where: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise SurveyError(
            f"{where}: malformed `{column}` {_shortened(text)}. Expected the text of a Python "
            "literal."
        ) from None


def _shortened(value: Any, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."
