"""What a policy is aligned to: one group, or all groups under a rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from alignment.config import RewardSettings
from alignment.survey_reward import SurveyReward
from task.config import split_names
from task.errors import ConfigError, suggest
from task.paths import file_stem
from task.reward import RewardModel
from task.reward_aggregation import AGGREGATIONS, Aggregation, make_aggregation

GROUP = "group:"


@dataclass(frozen=True)
class Target:
    """A target.

    Attributes:
        name: as it is written in `align.targets`.
        groups: whose preferences count.
        rule: how they are aggregated; nothing to aggregate where there is one group.
    """

    name: str
    groups: tuple[str, ...]
    rule: str

    @property
    def folder(self) -> str:
        """Name of the target's folder."""
        return self.name if self.name in AGGREGATIONS else file_stem(self.name)

    def reward(self, model: RewardModel, settings: RewardSettings) -> SurveyReward:
        """Return the reward of answers, of a rule that has learnt nothing yet."""
        return SurveyReward(
            model, self.groups, aggregation=make_rule(self.rule, settings), floor=settings.floor
        )


def parse_targets(text: str, groups: Sequence[str]) -> list[Target]:
    """Return the targets that `align.targets` names.

    Args:
        text: `group:NAME` and names of rules, separated by `|`.
        groups: the groups that count.

    Raises:
        ConfigError: a group or rule does not exist.
    """
    targets = []
    for name in split_names(text):
        if name.startswith(GROUP):
            group = name.removeprefix(GROUP).strip()
            if group not in groups:
                raise ConfigError(
                    f"align.targets names the group {group!r}, which is not among those that "
                    f"count: {', '.join(groups)}.{suggest(group, groups)}"
                )
            targets.append(Target(name, (group,), "mean"))
        elif name in AGGREGATIONS:
            targets.append(Target(name, tuple(groups), name))
        else:
            raise ConfigError(
                f"align.targets names {name!r}: expected group:NAME, or one of "
                f"{', '.join(AGGREGATIONS)}.{suggest(name, AGGREGATIONS)}"
            )
    return targets


def make_rule(name: str, settings: RewardSettings) -> Aggregation:
    """Return a rule with the options that the settings give."""
    if name != "adaptive-alpha":
        return make_aggregation(name)
    return make_aggregation(
        name,
        temperature=settings.alpha_temperature,
        decay=settings.alpha_decay,
        fairness_threshold=settings.alpha_fairness_threshold,
    )
