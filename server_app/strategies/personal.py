"""What personal strategies share: clients are told to keep parameters of their own."""

from collections.abc import Iterable
from logging import INFO
from typing import Any, ClassVar, Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.supercore import log

from task import records


@runtime_checkable
class KeepsPersonal(Protocol):
    """A strategy with which training groups have parameters of their own, and are scored by them.

    Attributes:
        personal: which way of personal training (`task.personal`).
    """

    personal: str


class Personal(flower.FedAvg):
    """FedAvg of what clients send; their own parameters stay with them.

    Args:
        proximal_mu: how strongly a group's own parameters are drawn to the global ones.
        **flower_options: see Flower's FedAvg.
    """

    personal: ClassVar[str]

    def __init__(self, *, proximal_mu: float, **flower_options: Any) -> None:
        if not proximal_mu >= 0:
            raise ValueError(f"proximal_mu = {proximal_mu}: expected a number >= 0.")
        super().__init__(**flower_options)
        self.proximal_mu = proximal_mu

    def summary(self) -> None:
        """Log the strategy's settings."""
        log(INFO, "\t├──> %s settings:", type(self).__name__)
        log(INFO, "\t│\t└── proximal_mu: %s", self.proximal_mu)
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Say how personal parameters are trained."""
        config[records.PERSONAL] = self.personal
        config[records.PERSONAL_MU] = self.proximal_mu
        return super().configure_train(server_round, arrays, config, grid)
