"""Unit `member`: how much noise a release of histograms needs, and the epsilon it costs.

What is released, who neighbours whom and what is not covered: see `task.respondents`.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from task.errors import ConfigError
from task.privacy_config import PrivacyConfig

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def most_answered(privacy: PrivacyConfig, num_questions: int) -> int:
    """Return how many of a group's questions one respondent may have answered: M."""
    return min(privacy.questions_per_respondent or num_questions, num_questions)


def noise_scale(privacy: PrivacyConfig, num_questions: int, *, declared: bool) -> float:
    """Return the noise of a count, in respondents: `privacy.noise-multiplier` times sensitivity.

    Args:
        privacy: the kind of noise and its multiplier.
        num_questions: questions of the group.
        declared: the number of respondents is declared, and not from the source.

    Returns:
        `gaussian`: the standard deviation, `discrete-laplace`: the scale, both of every count.
    """
    changed = most_answered(privacy, num_questions) * (2 if declared else 1)
    gaussian = privacy.histogram_noise == "gaussian"
    return privacy.noise_multiplier * (math.sqrt(changed) if gaussian else changed)


def release_event(privacy: PrivacyConfig, num_questions: int) -> "DpEvent":
    """Return the release of one group's histograms, for dp_accounting.

    Gaussian noise: one Gaussian mechanism, of all counts together. Discrete Laplace noise: M of
    sensitivity 1. Of a declared number of respondents two counts of a question change, with twice
    the scale; a count's privacy loss is then +-1 / (2 z M), and the sum of two such is dominated by
    the loss +-1 / (z M) of the one that is returned, as every (1 / (z M), 0)-private release is
    (Kairouz et al. 2015, arXiv 1311.0776).

    Args:
        privacy: the kind of noise and its multiplier z.
        num_questions: questions of the group.

    Raises:
        ConfigError: the accountant cannot compose this kind of noise.
    """
    import dp_accounting  # takes two seconds to import

    require_accountable(privacy)
    if not privacy.noise_multiplier:
        return dp_accounting.NonPrivateDpEvent()
    answered = most_answered(privacy, num_questions)
    return histogram_event(privacy.histogram_noise, privacy.noise_multiplier, answered)


def histogram_event(kind: str, multiplier: float, answered: int) -> "DpEvent":
    """Return the release of histograms with noise, see `release_event`.

    Args:
        kind: `gaussian` or `discrete-laplace`.
        multiplier: noise over the sensitivity, above 0.
        answered: questions that one respondent may have answered.
    """
    import dp_accounting

    if kind == "gaussian":
        return dp_accounting.GaussianDpEvent(multiplier)
    parameter = 1 / (multiplier * answered)
    event = dp_accounting.dp_event.DiscreteLaplaceDpEvent(parameter, sensitivity=1)
    return dp_accounting.SelfComposedDpEvent(event, answered)


def member_epsilon(privacy: PrivacyConfig, numbers_of_questions: Iterable[int]) -> float:
    """Return the epsilon of one respondent at `privacy.delta`: the largest of all groups.

    Args:
        privacy: the noise, delta and the accountant.
        numbers_of_questions: questions of each group that takes part.

    Returns:
        Epsilon; infinite without noise. Far below 1 that of `discrete-laplace` may be a third too
        large, for the accountant's grid.

    Raises:
        ConfigError: the accountant cannot compose this kind of noise.
    """
    from dp_accounting import pld, rdp

    require_accountable(privacy)
    if not privacy.noise_multiplier:
        return math.inf
    # Groups whose respondents answer as many questions have the same epsilon.
    numbers = {most_answered(privacy, number) for number in numbers_of_questions}
    if privacy.histogram_noise == "gaussian":
        numbers = {max(numbers)}
    epsilons = []
    for number in numbers:
        accountant = pld.PLDAccountant() if privacy.accountant == "pld" else rdp.RdpAccountant()
        accountant.compose(release_event(privacy, number))
        epsilons.append(float(accountant.get_epsilon(privacy.delta)))
    return max(epsilons)


def require_accountable(privacy: PrivacyConfig) -> None:
    """Raise a `ConfigError` where the accountant cannot compose this kind of noise."""
    if privacy.accountant == "rdp" and privacy.histogram_noise == "discrete-laplace":
        raise ConfigError(
            "privacy.accountant = 'rdp': expected 'pld' where privacy.histogram-noise = "
            "'discrete-laplace', for which dp_accounting has no other."
        )
