"""What differential privacy means for a comparison: which methods it covers, and what it costs."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from task.config import RunConfig
from task.errors import ConfigError
from task.privacy_config import PrivacyConfig

EXACT_METHODS = (
    "Methods that are not federated read exact answers: they are not private, and show what "
    "privacy costs the federated ones."
)
NOISY_METHODS = (
    "All methods read the same noisy answer histograms and are scored against them, so the epsilon "
    "is that of each method, and of all that share a seed together."
)
ONE_CELL = (
    "An epsilon is that of one cell alone, and does not cover the exact scores of groups that "
    "everything here is computed from. Whoever sees the predictors of several cells learns more: "
    "epsilons and deltas add up."
)
ONE_SEED = "Every seed draws its own noise: over several seeds epsilons and deltas add up."


def require_exact_scores(config: RunConfig) -> None:
    """Raise a `ConfigError` where a run would disclose no exact scores of groups."""
    if config.privacy.metrics != "full":
        raise ConfigError(
            f"privacy.metrics = {config.privacy.metrics!r}: expected 'full' in a comparison, which "
            "is made of exact scores of groups. An epsilon of unit client or question does not "
            "cover them: compare where the answers may be, or look at single runs."
        )


def without_federation(config: RunConfig) -> RunConfig:
    """Return what a method that is not federated reads of a run's privacy.

    That is unit member alone, whose noise is on the answers: all else is done to updates.
    """
    if config.privacy.unit == "member":
        return config
    return replace(config, privacy=PrivacyConfig())


def largest(guarantees: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the guarantee with the largest epsilon, and all cells' `epsilons`; None without any.

    Args:
        guarantees: of a method's cells; see `task.accounting.Guarantee.to_json`.
    """
    found = [each for each in guarantees if each]
    if not found:
        return None
    worst = max(found, key=lambda each: _size(each["epsilon"]))
    return {**worst, "epsilons": [each["epsilon"] for each in found]}


def privacy_note(settings: Mapping[str, Any]) -> str:
    """Return what a reader must know beside epsilons; empty without privacy."""
    unit = settings.get("privacy.unit", "none")
    if unit == "member":
        return f"{NOISY_METHODS} {ONE_SEED}"
    return f"{EXACT_METHODS} {ONE_CELL}" if unit in ("client", "question") else ""


def whose_noise(kind: str, unit: str) -> str:
    """Say how private a method of a kind is; empty: no privacy was asked for."""
    if unit == "member":
        return "All answers carry noise."
    if unit not in ("client", "question"):
        return ""
    if kind == "federated":
        return f"Private, unit {unit}."
    return "Not private: nothing carries noise."


def _size(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon
