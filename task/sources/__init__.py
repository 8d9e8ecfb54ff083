"""Survey sources: one loader per file."""

from collections.abc import Callable
from functools import lru_cache

from task.config import DataConfig
from task.sources.global_opinions import load_global_opinions
from task.sources.synthetic import make_synthetic
from task.sources.table import load_table
from task.survey import Survey

SOURCES: dict[str, Callable[[DataConfig, int], Survey]] = {
    "synthetic": make_synthetic,
    "global-opinions": load_global_opinions,
    "table": load_table,
}


@lru_cache(maxsize=2)
def load_survey(data: DataConfig, seed: int) -> Survey:
    """Load the survey that the config names; kept for the life of the process.

    Raises:
        SurveyError: the survey cannot be read or breaks the schema.
    """
    return SOURCES[data.source](data, seed)
