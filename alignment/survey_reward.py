"""The reward of answers to survey questions: log share of the people who would give this answer.

Why log shares. Training maximises E[r] - beta KL(pi || pi_ref), whose optimum is

    pi(a) = pi_ref(a) exp(r(a) / beta) / Z.

With r(a) = log p_group(a), beta = 1 and a uniform reference over the options, that optimum is
pi = p_group: the model answers as the group does, and not with its favourite option alone.

Suffixes: B answers, G groups, O options of a question.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit

from alignment.prompts import chosen_option
from alignment.scoring import RewardFunction, ScoringModel
from task.comparisons import FLOOR
from task.conversation import Conversation
from task.errors import RewardError
from task.reward_aggregation import AdaptiveAlpha, Aggregation, make_aggregation
from task.survey import Question

Shares = NDArray[np.float64]


class SurveyReward(RewardFunction):
    """Scores answers to survey questions by the share of a group that would give them.

    The data set's columns `question` and `options` say what was asked; a completion names an option
    by letter or text (`alignment.prompts.chosen_option`). Several groups' shares are aggregated as
    log-odds, by a rule of `task.reward_aggregation`, and turned back into a log share. With `nash`
    that is the mean log share, so that the optimum is the normalised geometric mean of the groups'
    distributions; with `mean` odds are averaged in that way instead of shares.

    What each group would answer is predicted once and kept.

    Args:
        model: the reward model.
        groups: whose answers count: one group, or several; None: each row names its own in
            `column`.
        aggregation: the rule for several groups, or its name.
        column: the data set's column with the rows' groups.
        floor: log share of a completion that names no option, and the lowest of any.

    Raises:
        RewardError: a group is unknown, or there is none.
        ConfigError: there is no such rule.
    """

    def __init__(
        self,
        model: ScoringModel,
        groups: str | Sequence[str] | None = None,
        *,
        aggregation: Aggregation | str = "mean",
        column: str = "group",
        floor: float = FLOOR,
    ) -> None:
        named = (groups,) if isinstance(groups, str) else groups
        self.groups = None if named is None else tuple(named)
        rule = make_aggregation(aggregation) if isinstance(aggregation, str) else aggregation
        label = aggregation if isinstance(aggregation, str) else "aggregated"
        one = (
            "own group" if self.groups is None else self.groups[0] if len(self.groups) == 1 else ""
        )
        super().__init__(f"log share of {one}" if one else f"{label} log share", floor)
        if self.groups is not None:
            model.require_groups(self.groups)
        self.model = model
        self.aggregation = rule
        self.column = column
        self._known: dict[tuple[str, Question], Shares] = {}

    def prepare(self, questions: Sequence[Question]) -> None:
        """Predict these questions for all groups now, instead of when they are first answered."""
        with self._timed():
            for group in self.groups or ():
                self._predict(questions, group)

    def shares(self, question: Question, group: str) -> Shares:
        """Return (O,) the shares of a group that would give each answer."""
        self._predict([question], group)
        return self._known[group, question]

    def of_options(self, question: Question, group: str | None = None) -> Shares:
        """Return (O,) rewards of all options, as of now: a rule that remembers does not learn.

        Args:
            question: the question.
            group: whose reward, where each row names its group.
        """
        groups = self.groups if group is None else (group,)
        if groups is None:
            raise RewardError(f"{self.__name__}: each row has its own group: name one.")
        shares_OG = np.stack([self.shares(question, name) for name in groups], axis=1)
        return log_shares(shares_OG, groups, self.aggregation, self.floor, learn=False)

    def _scores(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[Conversation],
        columns: Mapping[str, Any],
    ) -> list[float | None]:
        texts = self._column(columns, "question", "the question that was asked")
        options = self._column(columns, "options", "the question's options in the prompt's order")
        asked = [Question(t, tuple(o)) for t, o in zip(texts, options, strict=True)]
        chosen = [
            chosen_option(_text(completion), question.options)
            for completion, question in zip(completions, asked, strict=True)
        ]
        scores: list[float | None] = [None] * len(asked)
        rows = [row for row, option in enumerate(chosen) if option is not None]
        if not rows:
            return scores
        whose: list[tuple[str, ...]]
        if self.groups is None:
            own = self._column(columns, self.column, "each row's group")
            whose = [(str(own[row]),) for row in rows]
        else:
            whose = [self.groups] * len(rows)
        self._predict_missing(asked, rows, whose)
        shares_BG = np.array(
            [
                [self._known[group, asked[row]][chosen[row]] for group in groups]
                for row, groups in zip(rows, whose, strict=True)
            ]
        )
        whom = self.groups or ("",)
        found = log_shares(shares_BG, whom, self.aggregation, self.floor, learn=True)
        for row, score in zip(rows, found.tolist(), strict=True):
            scores[row] = score
        return scores

    def _predict_missing(
        self, asked: Sequence[Question], rows: Sequence[int], whose: Sequence[tuple[str, ...]]
    ) -> None:
        by_group: dict[str, list[Question]] = {}
        for row, groups in zip(rows, whose, strict=True):
            for group in groups:
                by_group.setdefault(group, []).append(asked[row])
        for group, questions in by_group.items():
            self._predict(questions, group)

    def _predict(self, questions: Sequence[Question], group: str) -> None:
        new = [q for q in dict.fromkeys(questions) if (group, q) not in self._known]
        if new:
            predicted = self.model.distributions(new, group=group)
            for question, shares_O in zip(new, predicted, strict=True):
                self._known[group, question] = shares_O.astype(np.float64)


def log_shares(
    shares_BG: Shares, groups: Sequence[str], rule: Aggregation, floor: float, *, learn: bool
) -> Shares:
    """Return (B,) log shares of several groups together.

    Args:
        shares_BG: each group's share that gives an answer; below exp(floor) they count as that.
        groups: names of the groups.
        rule: how they are aggregated; of one group there is nothing to aggregate.
        floor: lowest log share.
        learn: whether a rule that remembers how groups fared may do so.
    """
    shares_BG = np.clip(shares_BG, np.exp(floor), 1 - 2**-53)
    if shares_BG.shape[1] == 1:
        return np.log(shares_BG[:, 0])
    odds_BG = np.log(shares_BG) - np.log1p(-shares_BG)
    if isinstance(rule, AdaptiveAlpha) and not learn:
        weights_G = [rule.weights.get(group, 1 / len(groups)) for group in groups]
        return np.asarray(log_expit(odds_BG @ np.array(weights_G)))
    return np.asarray(log_expit(rule(odds_BG, groups)))


def _text(completion: Conversation) -> str:
    """Return what was answered: a text, or the content of its last message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    return content if isinstance(content, str) else ""
