"""Tilted losses between groups."""

from collections.abc import Sequence
from typing import Any, ClassVar

from server_app.strategies.group_weighting import GroupResult, GroupWeighting, reported
from task import records
from task.weighting import Weights, tilted


class TERM(GroupWeighting):
    """Tilted empirical risk minimisation between groups (arXiv 2007.01162, eq. 4 with tau = 0).

    The gradient of log(mean(exp(t * loss))) / t weighs a group by exp(t * loss): t = 0 is the plain
    mean over groups, a large t the worst group, a negative one the best (robust to outliers).
    Groups count the same here, whatever their size.

    Args:
        tilt: the paper's t.
        **flower_options: see Flower's FedAvg.
    """

    reports: ClassVar[tuple[str, ...]] = (records.LOSS_BEFORE,)

    def __init__(self, *, tilt: float = 1.0, **flower_options: Any) -> None:
        super().__init__(**flower_options)
        self.tilt = tilt

    def settings(self) -> dict[str, object]:
        """See `GroupWeighting.settings`."""
        return {"tilt": self.tilt}

    def weigh(self, groups: Sequence[GroupResult]) -> Weights:
        """See `GroupWeighting.weigh`."""
        return tilted(self.tilt * reported(groups, records.LOSS_BEFORE))
