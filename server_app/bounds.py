"""What a reply to `train` keeps within, if it comes from a client that does as it is told."""

import math

from flwr.app import ConfigRecord, Message

from server_app.replies import SentParameters
from task import records
from task.config import RunConfig
from task.personal import MR_MTL
from task.update_bound import largest_update


class UpdateBound:
    """The largest update of an honest client.

    There is none where local training is not Adam's from the parameters that were sent: under unit
    question (SGD), with `top-k` compression (which adds what it left out before), and for MR-MTL
    (whose clients go on from their own parameters).

    Args:
        config: the run's settings.
    """

    def __init__(self, config: RunConfig) -> None:
        self._train, self._compression = config.train, config.compression.name
        self._applies = (
            config.strategy.bound_updates
            and config.privacy.unit != "question"
            and config.compression.name != "top-k"
        )

    def norm(self, server_round: int, sent: SentParameters, message: Message) -> float:
        """Return the L2 norm that an update must not exceed; infinity: any is possible."""
        settings = message.content.config_records.get(records.CONFIG, ConfigRecord())
        if not self._applies or settings.get(records.PERSONAL) == MR_MTL:
            return math.inf
        return largest_update(
            self._train.learning_rates(server_round),
            self._train,
            sent.layout.size,
            float(sent.vector_P.norm()),
            self._compression,
        )
