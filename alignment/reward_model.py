"""The reward models of an alignment, and the groups that count."""

from collections.abc import Sequence

from alignment.config import AlignConfig
from alignment.questions import QuestionSplit, context_survey, require_groups
from task.config import split_names
from task.errors import RewardError
from task.reward import RewardModel
from task.survey import Survey


def load_rewards(
    config: AlignConfig, survey: Survey, split: QuestionSplit
) -> tuple[RewardModel, RewardModel | None, tuple[str, ...]]:
    """Load the reward model and the one that judges win rates, with contexts of all groups.

    A group whose context a model does not hold gets one from the survey's training questions.

    Returns:
        The reward model, the judge if there is one, and the groups that count.

    Raises:
        RewardError: a model cannot be loaded, or no group is to be had.
        SurveyError: the survey does not hold a group.
    """
    settings = config.reward
    model = _load(config, settings.path)
    named = split_names(settings.groups)
    groups = named or model.groups or tuple(sorted(set(model.roles) & set(survey.answers)))
    if not groups:
        raise RewardError(
            f"reward.path = {settings.path!r}: it does not say which groups there are. Name some "
            "in reward.groups."
        )
    require_groups(survey, groups, "reward.groups" if named else f"reward.path = {settings.path!r}")
    judge = _load(config, settings.held_out_path) if settings.held_out_path else None
    return (
        _with_contexts(model, groups, config, survey, split),
        None if judge is None else _with_contexts(judge, groups, config, survey, split),
        groups,
    )


def _load(config: AlignConfig, path: str) -> RewardModel:
    return RewardModel.load(path, which=config.reward.which, encoder=config.reward.encoder)


def _with_contexts(
    model: RewardModel,
    groups: Sequence[str],
    config: AlignConfig,
    survey: Survey,
    split: QuestionSplit,
) -> RewardModel:
    model.cache.preload(survey.questions)
    missing = [group for group in groups if group not in model.groups]
    size, seed = config.reward.num_context, config.align.seed
    return model.with_contexts(
        {group: context_survey(survey, group, split.train, size, seed) for group in missing}
    )
