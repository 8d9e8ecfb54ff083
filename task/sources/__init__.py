"""Survey sources: one loader per file."""

from functools import lru_cache
from importlib import import_module

from task.config import DataConfig
from task.survey import Survey

# Loaded when it is used: reading files needs pandas, which takes a third of a second to import.
SOURCES = {
    "synthetic": "task.sources.synthetic:make_synthetic",
    "global-opinions": "task.sources.global_opinions:load_global_opinions",
    "table": "task.sources.table:load_table",
}


@lru_cache(maxsize=2)
def load_survey(data: DataConfig, seed: int) -> Survey:
    """Load the survey that the config names; kept for the life of the process.

    Raises:
        SurveyError: the survey cannot be read or breaks the schema.
    """
    module, loader = SOURCES[data.source].split(":")
    survey: Survey = getattr(import_module(module), loader)(data, seed)
    return survey
