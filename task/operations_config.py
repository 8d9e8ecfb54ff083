"""Settings of a run's operation: the nodes it waits for, and what it saves on the way."""

from dataclasses import dataclass

from task.settings import require, setting


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """`checkpoint.*`: what a run saves so that it can be continued (`run.resume`)."""

    every: int = setting(
        1,
        "Save all that `run.resume` needs every this many rounds, and when the run is told to "
        "stop. 0: never.",
    )
    keep: int = setting(2, "Checkpoints that are kept; older ones are removed.")

    def __post_init__(self) -> None:
        require(self.every >= 0, "checkpoint.every", self.every, "an integer >= 0")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "an integer >= 1")


@dataclass(frozen=True, kw_only=True)
class NodesConfig:
    """`nodes.*`: SuperNodes on machines of their own (`data.source` `nodes`)."""

    registry: str = setting(
        "",
        "File that says which node may serve which group (`pluralllm deploy` writes it). Empty: a "
        "node is believed.",
    )
    min_available: int = setting(
        0,
        "Groups that must be connected before the first round; nodes that are being asked what "
        "they hold are then given half a minute, and whoever comes later takes no part. 0: all "
        "groups of `nodes.registry`; without one, a training group and whoever else is there.",
    )
    patience: float = setting(
        600.0,
        "Seconds to wait for nodes: for the first round, and when too few of a round's clients "
        "sent a valid reply. Then the run stops, with everything saved.",
    )

    def __post_init__(self) -> None:
        require(
            self.min_available >= 0, "nodes.min-available", self.min_available, "an integer >= 0"
        )
        require(self.patience >= 0, "nodes.patience", self.patience, "a number >= 0")
