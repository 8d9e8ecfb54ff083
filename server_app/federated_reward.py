"""The federated reward model: groups score responses at home.

The setting of arXiv 2512.08786: no group's answers leave it, only a number per response.

Suffixes: B responses, G groups.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.serverapp import Grid
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from server_app.announcing import announce
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Client, Population, discover_clients
from server_app.score_requests import ScoreRequests
from task.comparisons import Against
from task.config import NODES, RunConfig, split_names
from task.errors import EncoderError, RewardError, suggest
from task.features import load_features
from task.predictor import PreferencePredictor
from task.rollouts import Rollouts
from task.saved_predictor import require_built_as
from task.survey import Question

MOST_BYTES = 4 << 20
"""Of text in one message: Flower sends it in one piece, and arrays in pieces of 5 MiB."""


class FederatedRewardModel:
    """Scores responses as `task.reward.RewardModel` does, with every group's context at home.

    The reward functions that TRL calls take it as their model (`alignment.scoring.ScoringModel`):
    `PluralReward(FederatedRewardModel.connect(grid, config, predictor))`, in a ServerApp.

    Args:
        grid: the runtime's grid.
        config: the run's settings; `score.*` says which groups are asked, and how many must answer.
        predictor: the trained predictor, on the CPU; its parameters travel with every message.
        population: the nodes' groups.
        connections: given where nodes are machines of their own.

    Attributes:
        groups: the groups that are asked, in name order.

    Raises:
        RewardError: a group that is to be asked is not there, or too few are.
        EncoderError: the nodes' encoder is not the predictor's.
        ConfigError: the settings would build another predictor on the nodes.
    """

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        predictor: PreferencePredictor,
        population: Population,
        connections: Connections | None = None,
    ) -> None:
        require_built_as(predictor, config.predictor)
        trained_on = predictor.encoder.get("fingerprint")
        if population.fingerprint != trained_on:
            raise EncoderError(
                f"The predictor was trained on features of {trained_on}, but the groups' encoder "
                f"is {population.fingerprint}: expected the same encoder.name, and model files."
            )
        self._clients = {client.group: client for client in _chosen(population, config)}
        self.groups = tuple(self._clients)
        self._shares: dict[Question, dict[str, NDArray[np.floating]]] = {}
        self._config = config
        self._requests = ScoreRequests(grid, config, predictor, population, connections)

    @classmethod
    def connect(
        cls, grid: Grid, config: RunConfig, predictor: PreferencePredictor
    ) -> "FederatedRewardModel":
        """Find the groups on whatever nodes the grid reaches, and return their reward model.

        Args:
            grid: the runtime's grid.
            config: the run's settings, with absolute paths.
            predictor: see the class.

        Raises:
            PopulationError: too few nodes came in time, or one cannot say what it holds.
            RewardError: see the class.
            EncoderError: see the class.
        """
        if config.data.source != NODES:
            # With all of this machine's cores: clients then read them from the cache.
            load_features(config.data, config.encoder, config.run.seed)
            population = discover_clients(grid, config.train.round_timeout)
            return cls(grid, config, predictor, population)
        connections = Connections(grid, config)
        population = connections.gather()
        connections.bind(population)
        return cls(grid, config, predictor, population, connections)

    def require_groups(self, groups: Sequence[str]) -> None:
        """Raise a `RewardError` unless there are groups, and each of them is asked."""
        if not groups:
            raise RewardError("No group is named: there is nobody to score a response.")
        for group in groups:
            if group not in self._clients:
                raise RewardError(
                    f"Unknown group {group!r}.{suggest(group, self.groups)} Asked are: "
                    f"{', '.join(self.groups[:20])}."
                )

    def score(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        group: str | Sequence[str],
        against: Against | None = None,
    ) -> Tensor:
        """Return (B,) float32 log-odds of every response for one group, or for each its own.

        Raises:
            RewardError: a group has not scored its responses, lengths differ, or see `scores`.
        """
        names = [group] * len(responses) if isinstance(group, str) else list(group)
        Rollouts.of(prompts, responses, against)  # raises where they do not fit
        if len(names) != len(responses):
            raise RewardError(
                f"{len(names)} groups for {len(responses)} responses: expected as many."
            )
        self.require_groups(names)
        scores_B = torch.empty(len(names))
        for name in dict.fromkeys(names):
            rows = [row for row, each in enumerate(names) if each == name]
            chosen = None if against is None else [against[row] for row in rows]
            texts = ([prompts[row] for row in rows], [responses[row] for row in rows])
            scores_B[rows] = self._scores(*texts, chosen, [name], 1)[:, 0]
        return scores_B

    def scores(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        groups: Sequence[str] | None = None,
        *,
        against: Against | None = None,
    ) -> Tensor:
        """Return (B, G) float32 log-odds of every response for several groups at once.

        Each group sees all responses and sends what `task.reward.RewardModel.score` gives with its
        own context. One that fails is asked again `evaluation.retries` times. If enough others
        answer (`score.min-groups`; 0: all must) its column is NaN, which
        `task.reward_aggregation.aggregate` leaves out.

        Args:
            prompts: B prompts.
            responses: a response to each.
            groups: the groups; None: all that are asked.
            against: for each response, what it is compared with.

        Raises:
            RewardError: too few groups have scored all responses, a response cannot be scored, or
                a group is unknown.
        """
        names = self.groups if groups is None else tuple(groups)
        self.require_groups(names)
        least = min(self._config.score.min_groups, len(names)) or len(names)
        return self._scores(prompts, responses, against, names, least)

    def distributions(
        self, questions: Sequence[Question], *, group: str
    ) -> list[NDArray[np.floating]]:
        """Return one (options,) distribution per question for one group.

        All groups are asked at once, and what they say is kept: asking for the next group costs
        nothing.

        Raises:
            RewardError: a group has not answered: `score.min-groups` counts for `scores` alone.
        """
        self.require_groups([group])
        if new := [
            question for question in dict.fromkeys(questions) if question not in self._shares
        ]:
            self._predict(new)
        return [self._shares[question][group] for question in questions]

    def _predict(self, questions: Sequence[Question]) -> None:
        rows = [(q.text, option, list(q.options)) for q in questions for option in q.options]
        prompts, responses, against = map(list, zip(*rows, strict=True))
        number = len(self.groups)
        scores_BG = self._scores(prompts, responses, against, self.groups, number).double()
        ends = np.cumsum([len(question.options) for question in questions])[:-1]
        for question, scores_OG in zip(questions, np.split(scores_BG.numpy(), ends), strict=True):
            shares_OG = expit(scores_OG)  # of an option against all others: its share
            shares_OG /= shares_OG.sum(axis=0)
            self._shares[question] = dict(zip(self.groups, shares_OG.T, strict=True))

    def _scores(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        against: Against | None,
        groups: Sequence[str],
        least: int,
    ) -> Tensor:
        rollouts = Rollouts.of(prompts, responses, against)
        everybody = [self._clients[group] for group in groups]
        asked, parts = everybody, []
        failures: dict[str, str] = {}
        for batch in rollouts.batches(self._config.score.batch_size, MOST_BYTES):
            scored, failed = self._requests.ask(batch, asked)
            failures |= failed
            asked = [client for client in asked if client.id in scored]
            if len(asked) < least:
                raise RewardError(
                    f"{len(asked)} of {len(groups)} groups scored the responses, expected {least} "
                    f"(score.min-groups). Without: {_listed(failures)}"
                )
            parts.append(scored)
        if failures:
            text = (
                f"{len(asked)} of {len(groups)} groups score {len(rollouts)} responses, "
                f"without {_listed(failures)}"
            )
            fields = {"groups": [client.group for client in asked], "failures": failures}
            announce("groups-not-scoring", text, fields, "warning")
        scores_BG = np.full((len(rollouts), len(groups)), np.nan, dtype=np.float32)
        for column, client in enumerate(everybody):
            if client in asked:
                scores_BG[:, column] = np.concatenate([part[client.id] for part in parts])
        return torch.from_numpy(scores_BG)


def _chosen(population: Population, config: RunConfig) -> tuple[Client, ...]:
    """Return the clients that are to be asked, by id."""
    wanted = split_names(config.score.groups)
    there = population.roles
    if missing := [group for group in wanted if group not in there]:
        raise RewardError(
            f"score.groups names {missing[0]!r}, which is not among the {len(there)} groups here."
            f"{suggest(missing[0], there)}"
        )
    chosen = tuple(c for c in population.clients if not wanted or c.group in wanted)
    if len(chosen) < config.score.min_groups:
        raise RewardError(
            f"score.min-groups = {config.score.min_groups}: expected at most {len(chosen)}, the "
            "number of groups that are asked."
        )
    return tuple(sorted(chosen, key=lambda client: client.id))


def _listed(failures: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in failures.items())
