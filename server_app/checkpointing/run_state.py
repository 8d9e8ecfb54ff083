"""All that a run is after a round, taken from its parts and given back to them."""

from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord

from server_app.checkpointing.checkpoints import Checkpoint
from server_app.checkpointing.progress import Progress
from server_app.checkpointing.strategy_state import StrategyState
from server_app.monitor import RoundMonitor
from server_app.population import PopulationGrid
from server_app.privacy import RunPrivacy


@dataclass(frozen=True)
class RunState:
    """The parts of a run that change from round to round.

    Attributes:
        strategy: what the strategy remembers.
        train_config: the record that the strategy is given in every round, and may change.
        evaluate_config: the same for evaluation.
        privacy: what was spent, and the noise that later rounds take off again.
        clients: count the rounds.
        monitor: the last evaluation and the best one.
    """

    strategy: StrategyState
    train_config: ConfigRecord
    evaluate_config: ConfigRecord
    privacy: RunPrivacy
    clients: PopulationGrid
    monitor: RoundMonitor

    def after(self, server_round: int, arrays: ArrayRecord) -> Checkpoint:
        """Return the checkpoint of a round.

        Args:
            server_round: the finished round.
            arrays: the global parameters after it.

        Raises:
            ConfigError: the strategy has changed what cannot be saved.
        """
        progress = self.monitor.progress.state_dict()
        if progress["best_round"] == server_round:
            progress["best_parameters"] = None  # they are the same
        state = {
            "round": server_round,
            "arrays": arrays,
            "strategy": self.strategy.state_dict(),
            "train_config": self.train_config,
            "evaluate_config": self.evaluate_config,
            "privacy": self.privacy.state_dict(),
            "progress": progress,
        }
        return Checkpoint(server_round, state)

    def restore(self, checkpoint: Checkpoint) -> ArrayRecord:
        """Put the parts where they were after a round; return the global parameters.

        Raises:
            ConfigError: it is another strategy's checkpoint.
            RunDirectoryError: the privacy ledger has lost releases.
        """
        state, arrays = checkpoint.state, checkpoint.state["arrays"]
        self.strategy.load_state_dict(state["strategy"])
        for config, saved in (
            (self.train_config, state["train_config"]),
            (self.evaluate_config, state["evaluate_config"]),
        ):
            config.clear()
            config.update(saved)
        self.privacy.load_state_dict(state["privacy"])
        self.clients.server_round = checkpoint.server_round
        progress = Progress.from_state_dict(state["progress"])
        if progress.best_round == checkpoint.server_round:
            progress.best_parameters = arrays.to_torch_state_dict()
        self.monitor.restore(checkpoint.server_round, arrays, progress)
        parameters: ArrayRecord = arrays
        return parameters
