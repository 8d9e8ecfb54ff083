"""Groups with a high loss count more, smoothly."""

import gc
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from task import records


class QFedAvg(flower.QFedAvg):
    """q-FedAvg (arXiv 1905.10497, algorithm 2) for clients that run Adam.

    Minimises the sum of loss^(q + 1). The step's size comes from a Lipschitz constant, taken as one
    over the rate at which SGD would make clients' updates. Adam's own rate, a thousand times
    smaller, would make every step so small that nothing is learned.

    Args:
        q: how much more groups with a high loss count; 0: all the same.
        client_learning_rate: rate at which SGD would make updates as long as the clients'.
        **flower_options: see Flower's QFedAvg.
    """

    def __init__(
        self, *, q: float = 0.1, client_learning_rate: float = 30.0, **flower_options: Any
    ) -> None:
        if not q >= 0:
            raise ValueError(f"q = {q}: expected a number >= 0.")
        if not client_learning_rate > 0:
            raise ValueError(f"client_learning_rate = {client_learning_rate}: expected > 0.")
        super().__init__(
            client_learning_rate=client_learning_rate,
            q=q,
            train_loss_key=records.LOSS,
            **flower_options,
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See Flower's QFedAvg, which collects garbage for every client.

        Frozen, what was there before is not looked through each time: that took longer than
        training.
        """
        gc.freeze()
        try:
            return super().aggregate_train(server_round, replies)
        finally:
            gc.unfreeze()
