"""What can be checked of a run before anything starts, wherever its data are."""

from pathlib import Path

from server_app.checkpointing.checkpoints import require_every_round
from server_app.checkpointing.strategy_state import require_resumable
from server_app.open_run import require_interrupted
from server_app.privacy import require_private_strategy
from server_app.run_directory import require_unused
from server_app.scoring_run import require_scorable
from server_app.sinks import check_sinks
from server_app.strategies import require_strategy
from task.config import RunConfig


def require_startable(config: RunConfig) -> None:
    """Check a run's strategy, privacy, sinks, and the directory that it is to have or to continue.

    Of one that scores responses: what it scores, with what, and where the scores go.

    Raises:
        UserError: one of them is not as it must be.
    """
    if config.score.rollouts:
        require_unused(Path(config.run.directory))
        require_scorable(config, Path(config.run.directory))
        return
    strategy = require_strategy(config)
    require_private_strategy(strategy, config)
    require_every_round(strategy, config)
    check_sinks(config.log)
    if config.run.resume:
        require_resumable(strategy)
        require_interrupted(config)
    else:
        require_unused(Path(config.run.directory))
