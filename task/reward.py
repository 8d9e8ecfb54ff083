"""The reward model: a trained preference predictor that scores responses as a group would.

A response is an option of its prompt. The predictor gives every option a logit; given other
options, the softmax over them is the share of the group that prefers each, so that differences of
logits are log-odds (Bradley and Terry 1952; Luce 1959).

Suffixes: B responses, G groups, Q questions, O options of a question.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from task.comparisons import Against, Comparison, comparisons
from task.config import EncoderConfig
from task.context_prediction import Prediction, predict_contexts
from task.contexts import Context
from task.errors import RewardError, suggest
from task.feature_cache import FeatureCache
from task.predictor import PreferencePredictor
from task.roles import Role
from task.saved_predictor import encoder_of
from task.survey import Question, Survey


class RewardModel:
    """Scores responses for groups, each by its context.

    Scores are log-odds. With `against`, of the response against the reference response or against
    all the other options together: comparable between prompts and groups, and what the rules of
    `task.reward_aggregation` expect. Without it, a response's own logit: differences between two
    responses to one prompt, for one group, are log-odds; its zero means nothing.

    Args:
        predictor: the trained predictor; its population's answers, if it has any, are mixed in.
        contexts: group to its answered questions; more can be given with each call.
        encoder: the encoder; None: the one that the predictor was trained with.
        roles: role of every group of the run that trained it, for errors that say more.
        device: where to predict; None: a GPU if there is one.
        cache: of that encoder's features, to share with other reward models; None: one of its own.
        temperature: what logits are divided by; see `task.temperature`.

    Raises:
        EncoderError: the encoder is not to be had here, or is another one.
    """

    def __init__(
        self,
        predictor: PreferencePredictor,
        contexts: Mapping[str, Survey | Context] | None = None,
        *,
        encoder: EncoderConfig | None = None,
        roles: Mapping[str, Role] | None = None,
        device: torch.device | str | None = None,
        cache: FeatureCache | None = None,
        temperature: float = 1.0,
    ) -> None:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.predictor = predictor.to(chosen).eval()
        self.cache = cache or FeatureCache(encoder or encoder_of(predictor))
        self.roles = dict(roles or {})
        self.temperature = temperature
        self._contexts = dict(contexts or {})  # encoded when they are first asked for

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        which: str = "best",
        encoder: str = "",
        device: torch.device | str | None = None,
    ) -> "RewardModel":
        """Load what `pluralllm export` wrote, a run directory, or a model of the hub.

        Args:
            source: a folder or a Hugging Face hub id.
            which: `best` or `final` predictor of a run directory.
            encoder: hub id or folder of the predictor's encoder, if it has moved.
            device: see the class.

        Raises:
            RewardError: there is no such folder, and the hub has none or cannot be reached.
            RunDirectoryError: the folder holds no predictor.
            EncoderError: see the class.
        """
        from task.reward_files import load_reward_model  # which imports this module

        return load_reward_model(source, which=which, encoder=encoder, device=device)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups whose context is here, in name order."""
        return tuple(sorted(self._contexts))

    @property
    def device(self) -> torch.device:
        """Where it predicts."""
        return self.predictor.feature_mean.device

    def require_groups(self, groups: Sequence[str]) -> None:
        """Raise a `RewardError` unless there are groups, and the context of each is here."""
        if not groups:
            raise RewardError("No group is named, and this reward model holds no context of any.")
        for group in groups:
            self.context(group)

    def with_contexts(self, contexts: Mapping[str, Survey | Context]) -> "RewardModel":
        """Return a model of the same predictor and encoder that knows more groups."""
        other = copy(self)
        other._contexts = self._contexts | dict(contexts)
        return other

    def context_of(self, given: Survey | Context, group: str = "") -> Context:
        """Return answered questions as the predictor sees them.

        Args:
            given: a survey that holds one group, or this group among others.
            group: the group; empty: the survey's only one.

        Raises:
            RewardError: the survey does not say whose context is meant, or lacks the group.
        """
        if isinstance(given, Context):
            return given
        names = list(given.answers)
        if not group and len(names) != 1:
            raise RewardError(
                f"The context holds {len(names)} groups ({', '.join(names[:8])}): expected one. "
                "Name it."
            )
        if group and group not in given.answers:
            raise RewardError(
                f"The context holds no group {group!r}.{suggest(group, names)} It holds: "
                f"{', '.join(names[:20])}."
            )
        return Context.of_survey(given, group or names[0], self.cache)

    def score(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        group: str | Sequence[str] | None = None,
        context: Survey | Context | None = None,
        against: Against | None = None,
    ) -> Tensor:
        """Return (B,) float32 log-odds, see the class; higher is better.

        Args:
            prompts: the prompts.
            responses: a response to each.
            group: whose preferences count: one group's for all, or one for each response.
            context: or a group's answered questions.
            against: for each response, what it is compared with.

        Raises:
            RewardError: a response is empty, a group is unknown or has no context, or lengths
                differ.
            EncoderError: the encoder cannot be loaded, or its features are not finite.
        """
        contexts = self._whose(group, context, len(prompts))
        asked = comparisons(prompts, responses, against)
        if len(contexts) != len(asked):
            raise RewardError(
                f"{len(contexts)} groups for {len(asked)} responses: expected as many."
            )
        rows_of: dict[int, list[int]] = {}
        for row, each in enumerate(contexts):
            rows_of.setdefault(id(each), []).append(row)
        scores_B = torch.empty(len(asked))
        for rows in rows_of.values():
            scores_B[rows] = self._scores([contexts[rows[0]]], [asked[row] for row in rows])[:, 0]
        return scores_B.to(self.device)

    def scores(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        groups: Sequence[str] | None = None,
        *,
        against: Against | None = None,
    ) -> Tensor:
        """Return (B, G) float32 log-odds of every response for several groups at once.

        Args:
            prompts: the prompts.
            responses: a response to each.
            groups: the groups; None: all whose context is here.
            against: for each response, what it is compared with.

        Raises:
            RewardError: see `score`.
            EncoderError: see `score`.
        """
        names = self.groups if groups is None else tuple(groups)
        self.require_groups(names)
        asked = comparisons(prompts, responses, against)
        return self._scores([self.context(name) for name in names], asked).to(self.device)

    def distribution(
        self,
        question: str,
        options: Sequence[str],
        *,
        group: str | None = None,
        context: Survey | Context | None = None,
    ) -> Tensor:
        """Return (O,) float32 predicted answer distribution of a group over a question's options.

        Raises:
            RewardError: there are fewer than two options, or see `score`.
            EncoderError: see `score`.
        """
        if len(options) < 2:
            raise RewardError(f"{len(options)} options: expected two or more.")
        asked = [Question(question, tuple(options))]
        shares_O = self.distributions(asked, group=group, context=context)[0]
        return torch.from_numpy(shares_O).float().to(self.device)

    def distributions(
        self,
        questions: Sequence[Question],
        *,
        group: str | None = None,
        context: Survey | Context | None = None,
    ) -> list[NDArray[np.floating]]:
        """Return one (options,) distribution per question for one group; see `distribution`."""
        predictions = self._predictions(self._whose(group, context, 1), questions)[0]
        return [predicted.shares for predicted in predictions]

    def _whose(
        self, group: str | Sequence[str] | None, context: Survey | Context | None, number: int
    ) -> list[Context]:
        """Return the context that counts for each of so many responses."""
        if context is not None:
            if group is not None and not isinstance(group, str):
                raise RewardError("context is one group's answers: give no list of groups with it.")
            return [self.context_of(context, group or "")] * number
        if group is None:
            raise RewardError(
                f"Whose preferences count? Give group (here: {self._known()}), or context = a "
                "group's answered questions."
            )
        return [
            self.context(name) for name in ([group] * number if isinstance(group, str) else group)
        ]

    def context(self, group: str) -> Context:
        """Return the context of a group that is here.

        Raises:
            RewardError: there is none.
        """
        if group in self._contexts:
            context = self._contexts[group] = self.context_of(self._contexts[group], group)
            return context
        if role := self.roles.get(group):
            was = "was held out of" if role == "held-out" else "took part in"
            raise RewardError(
                f"Group {group!r} {was} training, but this reward model holds no context of it "
                f"(here: {self._known()}). Give context = its answered questions, or export the "
                "run again with --context."
            )
        raise RewardError(
            f"Unknown group {group!r}.{suggest(group, {*self.groups, *self.roles})} Here: "
            f"{self._known()}. Any other group needs context = its answered questions."
        )

    def _known(self) -> str:
        names = ", ".join(map(repr, self.groups[:20])) + (" ..." if self.groups[20:] else "")
        return names or "no group's context"

    def _scores(self, contexts: Sequence[Context], asked: Sequence[Comparison]) -> Tensor:
        """Return (B, G) log-odds."""
        questions = list(dict.fromkeys(each.question for each in asked))
        place = {question: index for index, question in enumerate(questions)}
        scores = np.empty((len(asked), len(contexts)), dtype=np.float32)
        for g, predictions in enumerate(self._predictions(contexts, questions)):
            for b, each in enumerate(asked):
                scores[b, g] = predictions[place[each.question]].log_odds(each.index)
        return torch.from_numpy(scores)

    def _predictions(
        self, contexts: Sequence[Context], questions: Sequence[Question]
    ) -> list[list[Prediction]]:
        return predict_contexts(self.predictor, self.cache, contexts, questions, self.temperature)
