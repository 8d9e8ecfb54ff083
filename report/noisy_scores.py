"""How far noise may have moved the means that a run discloses."""

import math
from collections.abc import Mapping

from task.config import RunConfig
from task.errors import UserError
from task.features import load_roles
from task.metrics import SCORE_RANGE
from task.settings import Scalar


def groups_of(settings: Mapping[str, Scalar]) -> dict[str, int]:
    """Return how many groups train, and are held out; empty where the survey is not here.

    Reads which questions groups were asked, and no answers.

    Args:
        settings: of a run, with dotted keys.
    """
    try:
        config = RunConfig.from_flat(settings)
        roles = list(load_roles(config.data, config.evaluation, config.run.seed).values())
    except (UserError, OSError, ValueError, KeyError):
        return {}
    counts = {"held_out": roles.count("held-out"), "train": roles.count("train")}
    return {key: count for key, count in counts.items() if count}


def noise_of_means(settings: Mapping[str, Scalar]) -> dict[str, float]:
    """Return the standard deviation of the noise on each role's mean score; empty: not known.

    Unit client adds noise to the sum over groups, unit question to the score of each group.

    Args:
        settings: of a run with noisy metrics, with dotted keys.
    """
    low, high = SCORE_RANGE
    influence = float(settings.get("privacy.metrics-noise-multiplier", math.nan)) * (high - low)
    local = settings.get("privacy.unit") == "question"
    return {
        role: influence / (math.sqrt(count) if local else count)
        for role, count in groups_of(settings).items()
    }
