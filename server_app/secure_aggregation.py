"""Secure aggregation on the server: the mean of a round's updates, and no single one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from flwr.app import ConfigRecord, Message

from server_app.arrays import layout_of
from server_app.secure_workflow import Send, Wire, Workflow, unmasked_mean
from task import records
from task.config import RunConfig
from task.errors import ConfigError, RoundError
from task.secure_aggregation import (
    MIN_CLIENTS,
    decode,
    least_survivors,
    noise_std,
    num_levels,
    num_shares,
    value_range,
)


@dataclass(frozen=True)
class SecureSum:
    """What the server learns of a round.

    Attributes:
        mean_P: (P,) float64, in the order of `task.parameters.Layout`: the survivors' mean update
            (trained minus sent parameters), weighted; with their noise, if any.
        weight: the sum of their weights.
        survivors: ids of the clients that are in the mean, ascending.
        failures: client id to the reason why it did not answer. Who failed in the last stage is in
            the mean nevertheless.
        bytes_down: array and protocol bytes sent to clients, without records that `send` adds.
        bytes_up: received from them.
    """

    mean_P: torch.Tensor
    weight: float
    survivors: tuple[int, ...]
    failures: dict[int, str]
    bytes_down: int
    bytes_up: int


class SecureAggregation:
    """Runs Flower's SecAgg+ once a round (what it hides: `client_app.secure_aggregation`).

    Updates are masked, not parameters: they are small, so their quantisation is fine. Each entry
    of the mean is off by less than one of 2^22 steps or more (`task.secure_aggregation`) over twice
    the clipping norm and its noise, or over [-1, 1] without clipping, if all clients weigh the
    same. A round counts with `train.min-valid-fraction` of its clients, more than half, and 3, at
    least, and the same holds for the shares that open a client's mask.

    Args:
        config: the run's settings.
        max_weight: upper bound on any client's number of examples, from what it disclosed.
        weighted: weigh clients by their number of examples, as FedAvg does; never where
            `privacy.unit` is `client`.
        node_of: client id to its node. A node is sent one message at a time, because a simulation
            would lose the state of one of two groups that it computes at once. None: each client
            is a node.

    Raises:
        ConfigError: `max_weight` is below 1.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        max_weight: int,
        weighted: bool = True,
        node_of: Callable[[int], int] | None = None,
    ) -> None:
        if max_weight < 1:
            raise ConfigError(f"max_weight = {max_weight}: expected an integer above 0.")
        self._config = config
        self._max_examples = max_weight if weighted and config.privacy.unit != "client" else 0
        self._node_of = node_of or (lambda client_id: client_id)
        self._last_round = 0

    def run(
        self, batch: Sequence[Message], send: Send, timeout: float | None, attempt: int = 0
    ) -> SecureSum:
        """Let the clients of a round train, and return the mean of their updates.

        Args:
            batch: the strategy's messages to train, one per client, with `arrays` of one layout.
            send: sends messages to clients, four times or more; a reply's `src_node_id` is the
                client's id. It must not be given messages of two rounds at once.
            timeout: seconds to wait for the replies of each of the four stages (per node's turn).
            attempt: how often the round was charged before; clients' seeded noise differs by it.

        Raises:
            RoundError: too few clients, or too few that answered.
            ConfigError: more clients than the sum has room for.
        """
        by_client = {message.metadata.dst_node_id: message for message in batch}
        count = len(by_client)
        server_round = self._round_of(batch)
        if count < MIN_CLIENTS:
            raise RoundError(
                f"Round {server_round}: {count} clients, expected at least {MIN_CLIENTS} with "
                "privacy.secure-aggregation: a sum of fewer would hide little."
            )
        fraction = self._config.train.min_valid_fraction
        least = least_survivors(count, fraction)
        shares = num_shares(count)
        threshold = least_survivors(shares, fraction)
        levels = num_levels(count)
        norm = self._config.strategy.clipping_norm
        limit = value_range(norm, noise_std(self._config, norm, least))
        workflow = Workflow(
            shares=shares,
            threshold=threshold,
            least_survivors=least,
            limit=limit,
            levels=levels,
            timeout=timeout,
        )
        settings = ConfigRecord(
            {
                records.MAX_EXAMPLES: self._max_examples,
                records.LEAST_SURVIVORS: least,
                records.ATTEMPT: attempt,
            }
        )
        size = layout_of(batch[0].content.array_records[records.ARRAYS]).size
        wire = Wire(by_client, settings, size + 1, send, self._node_of)
        try:
            result = unmasked_mean(
                workflow, wire, list(by_client), self._config.run.seed, server_round
            )
            if result is None:
                raise RoundError(_why_halted(workflow, wire, server_round, count))
            (mean_V,), survivors = result
            mean_P, weight = decode(mean_V, len(survivors), limit, levels, self._max_examples)
        except ValueError as error:  # a client's masked vector or shares are not of the protocol
            raise RoundError(
                f"Round {server_round}: the sum cannot be unmasked ({error}): at least one client "
                "does not keep to the protocol, and it does not show which."
            ) from error
        return SecureSum(
            torch.from_numpy(mean_P),
            weight,
            survivors,
            dict(wire.failures),
            wire.bytes_down,
            wire.bytes_up,
        )

    def _round_of(self, batch: Sequence[Message]) -> int:
        """Return the round that the messages state; otherwise count."""
        configs = batch[0].content.config_records if batch else {}
        stated = configs.get(records.CONFIG, ConfigRecord()).get(records.SERVER_ROUND)
        self._last_round = cast(int, stated) if stated else self._last_round + 1
        return self._last_round


def _why_halted(workflow: Workflow, wire: Wire, server_round: int, count: int) -> str:
    reasons = "; ".join(f"client {i}: {why}" for i, why in sorted(wire.failures.items()))
    return (
        f"Round {server_round}: secure aggregation of {count} clients halted in its stage "
        f"{workflow.halted_in!r}; expected at least {workflow.least_survivors} clients, and "
        f"{workflow.least_shares} of the {workflow.num_shares} that hold shares of each one's "
        f"secrets (train.min-valid-fraction). {reasons}"
    )
