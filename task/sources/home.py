"""`nodes`: the survey file of one SuperNode, on its owner's machine."""

from dataclasses import replace

from task.config import DataConfig
from task.errors import ConfigError, SurveyError, suggest
from task.sources.columns import survey_by_columns
from task.sources.files import read_frame
from task.survey import Survey


def load_home(data: DataConfig, seed: int) -> Survey:
    """Load the named groups of a node's own file (see `task.sources.columns`), and no others.

    Raises:
        ConfigError: there is no file, as nowhere but on a node.
        SurveyError: the file is malformed, or lacks a named group.
    """
    if not data.path:
        raise ConfigError(
            "data.source = 'nodes': expected SuperNodes, each with a file of its own (`pluralllm "
            "deploy`, docs/deploy.md). A simulation takes a survey: see data.source."
        )
    survey = survey_by_columns(read_frame(data.path), data.path)
    named = (*data.train_group_names, *data.held_out_group_names)
    for group in named:
        if group not in survey.answers:
            raise SurveyError(
                f"{data.path} has no group {group!r} (--node-config group): it holds "
                f"{', '.join(survey.answers)}.{suggest(group, survey.answers)}"
            )
    if not named:
        return survey
    return replace(survey, answers={group: survey.answers[group] for group in sorted(named)})
