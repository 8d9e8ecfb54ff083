"""`score.*`: a run that lets groups score responses instead of training."""

from dataclasses import dataclass

from task.settings import require, require_choice, setting

SCORABLE_UNITS = ("none", "member")

AGGREGATIONS = ("mean", "min", "max", "nash", "adaptive-alpha")
"""The rules of `task.reward_aggregation`."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """`score.*`: responses that groups score at home, each from its own answers."""

    rollouts: str = setting(
        "",
        "File with responses to score (CSV, JSONL or Parquet: `prompt`, `response`, and maybe "
        "`against`). The run then trains nothing: every group scores them at home. Empty: train.",
    )
    predictor: str = setting(
        "",
        "The predictor that groups score with: a run directory (its best one), or a saved "
        "predictor's folder.",
    )
    groups: str = setting("", "Groups that are asked, separated by `|`. Empty: all.")
    min_groups: int = setting(
        0,
        "So many groups must answer; others that do not are left out and named. 0: all of them.",
    )
    aggregation: str = setting(
        "mean",
        "One score from the groups': `mean`, `min`, `max`, `nash` or `adaptive-alpha`.",
    )
    batch_size: int = setting(512, "Responses in one message to a group.")
    output: str = setting(
        "",
        "JSONL file that is written: prompt, response, score, and every group's. Empty: "
        "`scores.jsonl` in the run directory.",
    )

    def __post_init__(self) -> None:
        require_choice("score.aggregation", self.aggregation, AGGREGATIONS)
        require(self.min_groups >= 0, "score.min-groups", self.min_groups, "an integer >= 0")
        require(
            1 <= self.batch_size <= 100_000,
            "score.batch-size",
            self.batch_size,
            "an integer from 1 to 100000",
        )
        require(
            not self.rollouts or bool(self.predictor),
            "score.predictor",
            self.predictor,
            "a run directory or a predictor's folder where score.rollouts is set",
        )


def require_scorable_unit(unit: str) -> None:
    """Refuse scores under a privacy unit whose accounts would not hold them.

    A score is computed from a group's answers. Under `client` and `question` those are the exact
    ones, and no ledger charges for a score; under `member` they are histograms whose noise has been
    paid for, and whatever is computed from them is free.

    Raises:
        ConfigError: the unit is one of the former.
    """
    require(
        unit in SCORABLE_UNITS,
        "privacy.unit",
        unit,
        "'none' or 'member' where groups score responses: a score is computed from a group's exact "
        "answers, and no epsilon accounts for it",
    )
