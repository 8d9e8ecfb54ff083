"""A global predictor, and one of each group's own near it."""

from typing import Any, ClassVar

from server_app.strategies.personal import Personal
from task.personal import DITTO


class Ditto(Personal):
    """Ditto (arXiv 2012.04221, algorithm 1).

    The global parameters are trained as by FedAvg. Beside them every training group trains its own,
    v_k, on F_k(v) + mu / 2 |v - w|^2 with w the global parameters it was sent, as many steps again.

    Args:
        proximal_mu: the paper's lambda; 0: local training, large: the global parameters.
        **flower_options: see Flower's FedAvg.
    """

    personal: ClassVar[str] = DITTO

    def __init__(self, *, proximal_mu: float = 0.1, **flower_options: Any) -> None:
        super().__init__(proximal_mu=proximal_mu, **flower_options)
