"""Clients that train or not by a coin, and what attackers make of a run: for `attack.py`.

Suffixes: m canaries, n clients (canaries first), P parameters.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from torch import Tensor

from server_app.arrays import layout_of, to_vector
from server_app.cohort import CohortGrid
from server_app.federation import run_federation
from server_app.replies import is_train
from task import records
from task.aggregation import clip_update
from task.config import DataConfig, RunConfig, RunSettings
from task.episodes import Split, make_episode
from task.features import load_group
from task.parameters import Layout
from task.predictor import PreferencePredictor
from task.saved_predictor import load_predictor
from task.seeding import generator
from task.sources import load_survey
from task.training import episode_losses

OPTIONS = 4
Row = tuple[str, str, str, float]
"""Group, question, option and its share."""
Scores = dict[str, NDArray[np.float64]]


@dataclass
class Trajectory:
    """What an attacker sees of a run, reduced to products with each client's own updates.

    Whoever knows a client's data can compute the update that it would send in any round, as a
    function of the parameters that it is sent. Suffixes: n clients, P parameters.

    Attributes:
        groups: the clients' names.
        gram_nn: inner products of the clients' updates, over all rounds.
        released_n: inner products of their updates with what the rounds released.
        first_nP: their updates in the first round.
        start_P: the parameters that training starts from.
    """

    groups: list[str]
    gram_nn: Tensor
    released_n: Tensor
    first_nP: Tensor | None = None
    start_P: Tensor | None = None
    _round: int = 0
    _sent_P: Tensor | None = field(default=None, repr=False)
    _updates_nP: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, groups: list[str]) -> "Trajectory":
        """Return one without rounds."""
        number = len(groups)
        zeros = torch.zeros(number, number, dtype=torch.float64)
        return cls(groups, zeros, zeros[0].clone())

    def sent(self, server_round: int, sent_P: Tensor) -> None:
        """Take in what a round's clients are sent, which is what the one before released."""
        if server_round == self._round:
            return
        self.released(sent_P)
        self._round, self._sent_P = server_round, sent_P
        self._updates_nP = torch.zeros(len(self.groups), len(sent_P), dtype=torch.float64)
        if self.start_P is None:
            self.start_P, self.first_nP = sent_P, self._updates_nP

    def trained(self, group: str, values_P: Tensor) -> None:
        """Take in the parameters that a client makes of what was sent, clipped as they will be."""
        assert self._sent_P is not None and self._updates_nP is not None
        update_P = values_P.double() - self._sent_P.double()
        self._updates_nP[self.groups.index(group)] = update_P

    def released(self, parameters_P: Tensor) -> None:
        """Take in the parameters after a round."""
        if self._sent_P is not None and self._updates_nP is not None:
            self.gram_nn += self._updates_nP @ self._updates_nP.T
            self.released_n += self._updates_nP @ (parameters_P.double() - self._sent_P.double())
            self._sent_P = self._updates_nP = None


class CoinGrid(Grid):
    """Lets no reply of absent clients through, and notes what the attacker can compute.

    An absent client is as one that sends a zero update: the neighbour that is accounted for.
    """

    create_message = CohortGrid.create_message
    send_and_receive = CohortGrid.send_and_receive  # through the methods below

    def __init__(
        self, grid: Grid, absent: Iterable[str], trajectory: Trajectory, clipping_norm: float
    ) -> None:
        self._grid, self._absent, self._trajectory = grid, set(absent), trajectory
        self._clipping_norm = clipping_norm
        self._asked: dict[str, Message] = {}  # messages to train, by id

    @property
    def run(self) -> Run:
        """See `Grid`."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """See `Grid`."""
        self._grid.set_run(run)

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid`."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid`."""
        ids = list(self._grid.push_messages(batch := list(messages)))
        self._asked |= {i: m for i, m in zip(ids, batch, strict=True) if is_train(m)}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `Grid`."""
        return [self._passed(reply) for reply in self._grid.pull_messages(message_ids)]

    def _passed(self, reply: Message) -> Message:
        asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if asked is None or reply.has_error():
            return reply
        layout = layout_of(arrays := asked.content.array_records[records.ARRAYS])
        briefing: Mapping[str, Any] = asked.content.config_records[records.BRIEFING]
        group = briefing[records.GROUP]
        sent_P = to_vector(layout, arrays)
        values_P = to_vector(layout, reply.content.array_records[records.ARRAYS])
        if self._clipping_norm:
            values_P = clip_update(sent_P, values_P, self._clipping_norm)
        self._trajectory.sent(int(briefing[records.ROUND]), sent_P)
        self._trajectory.trained(group, values_P)
        if group not in self._absent:
            return reply
        error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "absent by a coin")
        return make_message(reply.metadata, error=error)


def canary_names(number: int) -> list[str]:
    """Return the canaries' names."""
    return [f"canary {index}" for index in range(number)]


def write_survey(file: Path, data: DataConfig, seed: int, num_canaries: int) -> list[str]:
    """Write the synthetic survey and canaries as a table; return the ordinary groups' names.

    A canary answers as many questions as an ordinary group does, all its own, each with one option
    drawn at random that everybody chose: no other group tells anything about them.
    """
    survey = load_survey(RunConfig(run=RunSettings(seed=seed), data=data))
    rows: list[Row] = []
    for group, answers in survey.answers.items():
        for index, position in enumerate(answers.questions.tolist()):
            question, shares = survey.questions[position], answers.distribution(index).tolist()
            pairs = zip(question.options, shares, strict=True)
            rows += [(group, question.text, option, share) for option, share in pairs]
    for canary in canary_names(num_canaries):
        rows += random_answers(canary, data.synthetic_answered, seed)
    write_table(file, rows)
    return list(survey.answers)


def random_answers(group: str, number: int, seed: int) -> list[Row]:
    """Return a group's answers to questions of made-up words: all chose one option, by chance."""
    draw = generator(seed, "canary", group)
    rows: list[Row] = []
    for _ in range(number):
        letters = draw.choice(list("abcdefghijklmnopqrstuvwxyz"), (4 + OPTIONS, 8))
        words = ["".join(word) for word in letters]
        chosen = int(draw.integers(OPTIONS))
        asked = enumerate(words[4:])
        rows += [(group, " ".join(words[:4]), word, float(i == chosen)) for i, word in asked]
    return rows


def write_table(file: Path, rows: Sequence[Row]) -> None:
    """Write answers for `data.source` `table`."""
    pd.DataFrame(rows, columns=["group", "question", "option", "share"]).to_parquet(file)


def train_and_score(config: RunConfig, num_canaries: int, folder: Path) -> tuple[Scores, Any]:
    """Train with each canary by a coin; return what each attack scores them by, and the coins."""
    seed, canaries = config.run.seed, canary_names(num_canaries)
    ordinary = write_survey(folder / "survey.parquet", config.data, seed, num_canaries)
    coins_m = generator(seed, "coins").random(num_canaries) < 0.5
    absent = [canary for canary, coin in zip(canaries, coins_m, strict=True) if not coin]
    flat = config.to_flat() | {"data.source": "table", "data.path": str(folder / "survey.parquet")}
    flat |= {"data.train-groups": "|".join([*canaries, *ordinary]), "engine.name": "cohort"}
    flat |= {"run.directory": str(folder / "run"), "evaluation.every": config.train.num_rounds}
    config = RunConfig.from_flat(flat)
    trajectory = Trajectory.of([*canaries, *ordinary])
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, 1
    with closing(CohortGrid(config)) as grid, redirect_stdout(StringIO()):
        coin_grid = CoinGrid(grid, absent, trajectory, config.strategy.clipping_norm)
        run_federation(coin_grid, config)
    predictor = load_predictor(folder / "run", "final")
    layout = Layout.of({name: p.shape for name, p in predictor.named_parameters()})
    trajectory.released(final_P := layout.flatten(dict(predictor.named_parameters())).detach())
    scores = {
        "loss": -own_losses(predictor, config, canaries),
        "update": first_update_scores(trajectory, final_P, num_canaries),
        "rounds": all_rounds_scores(trajectory, config, num_canaries),
    }
    return scores, coins_m


@torch.inference_mode()
def own_losses(
    predictor: PreferencePredictor, config: RunConfig, canaries: Iterable[str], num_draws: int = 8
) -> NDArray[np.float64]:
    """Return (m,) losses of the final predictor on questions that each canary trains on."""
    predictor.eval()
    losses = []
    for canary in canaries:
        data = load_group(config, canary)
        draw = generator(config.run.seed, "attack", canary)
        orders = [draw.permutation(data.trainable) for _ in range(num_draws)]
        most = config.train.max_context
        parts = [(data, Split(order[:most], order[most:])) for order in orders]
        episode = make_episode(parts)
        losses.append(float(episode_losses(predictor, episode, config.train.objective).mean()))
    return np.array(losses)


def first_update_scores(
    trajectory: Trajectory, final_P: Tensor, num_canaries: int
) -> NDArray[np.float64]:
    """Return (m,) products of each canary's first update and the change over the whole run.

    What all canaries' updates share tells nothing about one of them and is taken off.
    """
    assert trajectory.first_nP is not None and trajectory.start_P is not None
    own_mP = trajectory.first_nP[:num_canaries]
    own_mP = own_mP - own_mP.mean(0)
    scores: NDArray[np.float64] = (
        own_mP @ (final_P - trajectory.start_P).double() / own_mP.norm(dim=1)
    ).numpy()
    return scores


def all_rounds_scores(
    trajectory: Trajectory, config: RunConfig, num_canaries: int
) -> NDArray[np.float64]:
    """Return (m,) estimates of the coins from every round's release, by ridge regression.

    The attacker knows all clients' data and which ordinary ones take part (all of them), and each
    round's parameters, as differential privacy lets it: released sums are known updates, some of
    them times an unknown coin, plus noise. This is the best linear guess of the coins.
    """
    noise = config.privacy.noise_multiplier * config.strategy.clipping_norm
    number = len(trajectory.groups)
    weights_n = torch.ones(number, dtype=torch.float64)
    weights_n[:num_canaries] = 0.5  # what is expected of a coin
    own = slice(num_canaries) if noise else slice(number)  # FedAvg divides by an unknown number
    total_n = trajectory.released_n * number
    rest_n = total_n - trajectory.gram_nn @ weights_n if noise else total_n
    gram = trajectory.gram_nn[own, own]
    ridge = 4 * noise**2 + 1e-9 * float(gram.diagonal().mean())  # a coin's variance is 1/4
    solved = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).double(), rest_n[own])
    scores: NDArray[np.float64] = solved[:num_canaries].numpy()
    return scores
