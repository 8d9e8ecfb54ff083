"""A group's score with noise, paid for in the group's ledger (unit question)."""

import numpy as np
from numpy.typing import NDArray

from task.config import RunConfig
from task.evaluation import evaluate_group
from task.features import GroupData
from task.metrics import SCORE_RANGE
from task.noise import hardened_normal, noise_source
from task.predictor import PreferencePredictor
from task.question_ledger import EVALUATE, QuestionLedger, Release, digest_request

_NO_KEYS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


def noisy_score(
    predictor: PreferencePredictor,
    data: GroupData,
    config: RunConfig,
    *,
    server_round: int,
    ledger: QuestionLedger,
) -> float:
    """Return a group's mean alignment score with Gaussian noise.

    A question may be context of all the others, so one answer may move the whole mean over its
    range R: the noise's standard deviation is `privacy.metrics-noise-multiplier` times R.

    Args:
        predictor: has the parameters to score.
        data: the group's data.
        config: the run's settings.
        server_round: the federated round.
        ledger: where it is charged for, as one Gaussian step without sampling.

    Raises:
        BudgetError: it would exceed the budget; nothing was computed.
        RunDirectoryError: the ledger is damaged.
    """
    privacy, seed = config.privacy, config.run.seed
    tensors = {name: value for name, value in predictor.state_dict().items() if value.numel()}
    settings = (server_round, config.evaluation, privacy, seed, data.role, data.held_back.tolist())
    release = Release(
        kind=EVALUATE,
        server_round=server_round,
        request=digest_request(tensors, data, *settings),
        noise_multiplier=privacy.metrics_noise_multiplier,
        sample_rate=1.0,
        steps=1,
    )
    attempt = ledger.charge(data.group, release)
    parts = ("score", server_round, data.group, attempt, release.request)
    noise = noise_source(privacy.secure_noise, seed, *parts)
    score = evaluate_group(predictor, data, config.evaluation, seed, _NO_KEYS).all.value
    # Parameters that overflow must not let a score out of the range that the noise is made for.
    low, high = SCORE_RANGE
    bounded = np.clip(np.nan_to_num(score, nan=0.0), low, high)
    deviation = privacy.metrics_noise_multiplier * (high - low)
    return float(bounded + deviation * hardened_normal(noise, 1)[0])
