"""Survey sources: one loader per file, and the one door to what they read.

With `privacy.unit` `member` a run reads noisy histograms only. So everything else takes a survey
from `load_survey`, or from `load_asked` where it needs no answers; a test guards that.
"""

from functools import lru_cache
from importlib import import_module
from pathlib import Path

from task.config import DataConfig, EncoderConfig, RunConfig
from task.paths import cache_directory
from task.privacy_config import PrivacyConfig
from task.survey import Survey

# Loaded when it is used: reading files needs pandas, which takes a third of a second to import.
SOURCES = {
    "synthetic": "task.sources.synthetic:make_synthetic",
    "global-opinions": "task.sources.global_opinions:load_global_opinions",
    "table": "task.sources.table:load_table",
    "pairs": "task.sources.pairs:load_pairs",
    "ratings": "task.sources.ratings:load_ratings",
    "nodes": "task.sources.home:load_home",
}


def load_survey(config: RunConfig) -> Survey:
    """Load the survey as the run may read it; kept for the life of the process.

    Raises:
        SurveyError: the survey cannot be read or breaks the schema.
        ConfigError: see `task.respondents.private_survey`.
    """
    return survey_of(
        config.data, config.privacy, key_folder(config.privacy, config.encoder), config.run.seed
    )


def survey_of(data: DataConfig, privacy: PrivacyConfig, folder: Path, seed: int) -> Survey:
    """Load the survey as a run with these settings may read it; see `load_survey`.

    Args:
        data: the survey.
        privacy: with unit `member` its answers are noisy.
        folder: where the key of secure noise lies.
        seed: the run's seed.
    """
    if privacy.unit == "member":
        return _private_survey(data, privacy, folder, seed)
    return _read_survey(data, seed)


def release_of(config: RunConfig, group: str) -> tuple[str, int]:
    """Return which release a run of unit member reads of a group.

    Returns:
        Its id (`task.respondents.release_id`), and the group's number of questions.
    """
    from task.respondents import release_id

    survey = _read_survey(config.data, config.run.seed)
    folder = key_folder(config.privacy, config.encoder)
    release = release_id(survey, group, config.privacy, config.run.seed, folder)
    return f"{release}-{config.privacy.questions_per_respondent}", len(survey.answers[group])


def key_folder(privacy: PrivacyConfig, encoder: EncoderConfig) -> Path:
    """Return where the key of secure noise on histograms lies, or will."""
    if privacy.noise_key_directory:
        return Path(privacy.noise_key_directory)
    return cache_directory(encoder)


def load_asked(data: DataConfig, seed: int) -> Survey:
    """Load the questions, and which of them each group was asked; every share is NaN."""
    return _read_survey(data, seed).without_answers()


@lru_cache(maxsize=2)
def _read_survey(data: DataConfig, seed: int) -> Survey:
    module, loader = SOURCES[data.source].split(":")
    survey: Survey = getattr(import_module(module), loader)(data, seed)
    return survey


@lru_cache(maxsize=2)
def _private_survey(data: DataConfig, privacy: PrivacyConfig, folder: Path, seed: int) -> Survey:
    from task.respondents import private_survey  # SciPy takes most of a second to import

    return private_survey(_read_survey(data, seed), privacy, seed, folder)
