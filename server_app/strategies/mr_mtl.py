"""Predictors of the groups' own alone, drawn to their mean."""

from typing import Any, ClassVar

from server_app.strategies.personal import Personal
from task.personal import MR_MTL


class MRMTL(Personal):
    """Mean-regularised multi-task learning (arXiv 2206.07902, algorithm 1).

    Every training group trains its own parameters on F_k(w) + mu / 2 |w - mean|^2 and sends them;
    the global parameters are their mean (the paper's: all groups alike; here: by their numbers of
    examples), which starts no training after the first round. Clipping bounds how far a group is
    from the mean, not what it learns in a round.

    Args:
        proximal_mu: the paper's lambda; 0: local training, large: FedAvg.
        **flower_options: see Flower's FedAvg.
    """

    personal: ClassVar[str] = MR_MTL

    def __init__(self, *, proximal_mu: float = 0.1, **flower_options: Any) -> None:
        super().__init__(proximal_mu=proximal_mu, **flower_options)
