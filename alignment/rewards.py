"""Rewards of free text for TRL's trainers: what a group, or several, would prefer.

    GRPOTrainer(model, reward_funcs=GroupReward(RewardModel.load("export")), train_dataset=...)

A completion is an option of its prompt, the prompt's other completions in the batch are the other
options, and the reward is the log-odds that the group prefers it (`task.reward.RewardModel`, or
with the groups at home `server_app.federated_reward.FederatedRewardModel`).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.scoring import RewardFunction, ScoringModel
from task.comparisons import FLOOR
from task.conversation import Conversation, text_of, text_or_empty
from task.errors import ConfigError, RewardError
from task.reward_aggregation import Aggregation, aggregate, make_aggregation

COMPLETIONS = "completions"


class _FreeTextReward(RewardFunction):
    """Finds what each completion is compared with; see `GroupReward`."""

    def __init__(self, name: str, model: ScoringModel, against: str | None, floor: float) -> None:
        super().__init__(name, floor)
        self.model = model
        self.against = against

    def _scores(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[Conversation],
        columns: Mapping[str, Any],
    ) -> list[float | None]:
        asked = [text_of(prompt) for prompt in prompts]
        given = [text_or_empty(completion) for completion in completions]
        others = self._others(asked, given, columns)
        scores: list[float | None] = [None] * len(given)
        rows = []
        for row, text in enumerate(given):
            if text and others is not None and set(others[row]) <= {text}:
                scores[row] = 0.0  # nothing differs from it: no comparison, no preference
            elif text:
                rows.append(row)
        if rows:
            against = None if others is None else [others[row] for row in rows]
            texts = ([asked[row] for row in rows], [given[row] for row in rows])
            found = self._score(*texts, rows, against, columns)
            for row, score in zip(rows, found, strict=True):
                scores[row] = score if others is None else max(score, self.floor)
        return scores

    @abstractmethod
    def _score(
        self,
        prompts: list[str],
        responses: list[str],
        rows: list[int],
        against: list[list[str]] | None,
        columns: Mapping[str, Any],
    ) -> list[float]:
        """Return the scores of the responses in some rows of the batch."""

    def _others(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, Any]
    ) -> list[list[str]] | None:
        """Return for each completion what it is compared with; None: with nothing."""
        if self.against is None:
            return None
        if self.against != COMPLETIONS:
            references = self._column(columns, self.against, "what completions are compared with")
            texts = [_texts(reference) for reference in references]
            for row, each in enumerate(texts):
                if not all(each) or not each:
                    raise RewardError(
                        f"{self.__name__}: row {row} of the column {self.against!r} is "
                        f"{references[row]!r}: expected a text, or several, to compare with."
                    )
            return texts
        by_prompt: dict[str, dict[str, None]] = {}
        for prompt, text in zip(prompts, completions, strict=True):
            if text:
                by_prompt.setdefault(prompt, {})[text] = None
        # A completion stays at its place among the options, so that a prompt is predicted once.
        return [list(by_prompt.get(prompt, ())) for prompt in prompts]


class GroupReward(_FreeTextReward):
    """Scores completions as one group would, or each row's own group.

    A completion without text gets `floor`, and is counted: `num_floored`, and in TRL's logs as the
    share `<name>/floored`. A completion with nothing to differ from gets 0.

    Args:
        model: the reward model.
        group: whose preferences count; None: each row names its own in `column`.
        column: the data set's column with the rows' groups.
        against: what a completion is compared with: `completions`, the other completions to its
            prompt in the batch; or the name of a column that holds a reference, or several; or
            None, nothing. Scores are log-odds; with None they are the predictor's logits, whose
            differences within a prompt and group are log-odds.
        floor: score of an empty completion, and with `against` the lowest of any.

    Raises:
        RewardError: the group is unknown, or `floor` is not negative.
    """

    def __init__(
        self,
        model: ScoringModel,
        group: str | None = None,
        *,
        column: str = "group",
        against: str | None = COMPLETIONS,
        floor: float = FLOOR,
    ) -> None:
        super().__init__(f"reward of {group or 'own group'}", model, against, floor)
        if group is not None:
            model.require_groups([group])
        self.group = group
        self.column = column

    def _score(
        self,
        prompts: list[str],
        responses: list[str],
        rows: list[int],
        against: list[list[str]] | None,
        columns: Mapping[str, Any],
    ) -> list[float]:
        group: str | list[str]
        if self.group is None:
            named = self._column(columns, self.column, "each row's group")
            group = [named[row] for row in rows]
        else:
            group = self.group
        scores: list[float] = self.model.score(
            prompts, responses, group=group, against=against
        ).tolist()
        return scores


class PluralReward(_FreeTextReward):
    """Scores completions as several groups together would.

    Args:
        model: the reward model.
        groups: whose preferences count; None: all groups whose context the model holds.
        aggregation: a rule of `task.reward_aggregation`, or its name.
        against: see `GroupReward`; never None, as logits of groups do not compare.
        floor: see `GroupReward`.

    Raises:
        ConfigError: there is no such rule, or `against` is None.
        RewardError: a group is unknown, or there is none.
    """

    def __init__(
        self,
        model: ScoringModel,
        groups: Sequence[str] | None = None,
        *,
        aggregation: Aggregation | str = "mean",
        against: str = COMPLETIONS,
        floor: float = FLOOR,
    ) -> None:
        if against is None:
            raise ConfigError(
                "against = None: rules for several groups take log-odds, expected 'completions' or "
                "a column of references."
            )
        rule = make_aggregation(aggregation) if isinstance(aggregation, str) else aggregation
        named = (
            aggregation
            if isinstance(aggregation, str)
            else getattr(rule, "__name__", type(rule).__name__)
        )
        super().__init__(f"{named} reward", model, against, floor)
        self.groups = model.groups if groups is None else tuple(groups)
        model.require_groups(self.groups)
        self.aggregation = rule

    def _score(
        self,
        prompts: list[str],
        responses: list[str],
        rows: list[int],
        against: list[list[str]] | None,
        columns: Mapping[str, Any],
    ) -> list[float]:
        scores_BG = self.model.scores(prompts, responses, self.groups, against=against)
        together_B = aggregate(self.aggregation, scores_BG.cpu().numpy(), self.groups)
        scores: list[float] = together_B.tolist()
        return scores


def _texts(reference: Any) -> list[str]:
    """Return a column's entry, a text, a conversation or several of them, as texts."""
    several = isinstance(reference, list | tuple) and not (
        reference and isinstance(reference[0], Mapping)
    )
    return [text_of(each) for each in reference] if several else [text_of(reference)]
