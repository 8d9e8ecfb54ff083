"""`privacy.*`: which unit differential privacy protects, how strongly, and what is disclosed."""

from dataclasses import dataclass

from task.settings import require, require_choice, setting

UNITS = ("none", "client", "question", "member")
ACCOUNTANTS = ("pld", "rdp")
METRICS = ("full", "noisy", "off")
HISTOGRAM_NOISES = ("gaussian", "discrete-laplace")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """`privacy.*`: differential privacy and secure aggregation (docs/privacy.md)."""

    unit: str = setting(
        "none",
        "What differential privacy protects: `none`; `client` (a client's whole update: noise on "
        "their mean); `question` (a group's answers to one question: DP-SGD in the client); "
        "`member` (one respondent: noisy answer histograms). See docs/privacy.md.",
    )
    noise_multiplier: float = setting(
        0.0,
        "Noise's standard deviation over the sensitivity (`discrete-laplace`: its scale). "
        "`pluralllm privacy` finds it for an epsilon. 0: no noise, an infinite epsilon.",
    )
    delta: float = setting(1e-5, "The delta of (epsilon, delta).")
    max_epsilon: float = setting(
        0.0,
        "Budget: the run stops before the release that would exceed it, and keeps the predictor. "
        "0: none.",
    )
    accountant: str = setting(
        "pld",
        "`pld` (privacy loss distributions, tight; unit question: Opacus' PRV) or `rdp` (Renyi; "
        "always for `train.sampling` `without-replacement`, which the other cannot).",
    )
    secure_noise: bool = setting(
        False,
        "Draw noise and cohorts from the operating system's entropy, as a deployment must: whoever "
        "knows `run.seed` could take seeded noise off again. The run is then not reproducible.",
    )
    clipping_quantile: float = setting(
        0.0,
        "Unit client: adapt the clipping norm so that this share of the updates is within it, from "
        "`strategy.clipping-norm` on. 0: keep that norm.",
    )
    clipping_learning_rate: float = setting(
        0.2, "Unit client, with a quantile: step of the clipping norm's logarithm."
    )
    clipping_count_noise: float = setting(
        0.0,
        "Unit client, with a quantile: standard deviation of the noise on the number of updates "
        "within the norm. 0: a twentieth of the cohort. Paid for by more noise on the updates.",
    )
    num_bands: int = setting(
        1,
        "Unit client: noise correlated over so many rounds (banded matrix factorisation), for "
        "`train.sampling` `cyclic`. 1: independent.",
    )
    gradient_clipping_norm: float = setting(
        1.0, "Unit question: L2 norm to which each episode's gradient is clipped."
    )
    questions_per_episode: int = setting(
        8, "Unit question: questions of a training episode, half of them context; disjoint."
    )
    sample_rate: float = setting(
        0.5, "Unit question: probability with which a step draws each episode."
    )
    histogram_noise: str = setting("gaussian", "Unit member: `gaussian` or `discrete-laplace`.")
    respondents: int = setting(
        0, "Unit member: respondents behind each answer distribution. 0: the survey has counts."
    )
    questions_per_respondent: int = setting(
        0, "Unit member: most questions that one respondent answered. 0: all of the group's."
    )
    noise_key_directory: str = setting(
        "",
        "Unit member with `secure-noise`: folder of the key from which noise derives; without the "
        "key the next run is a release more. Empty: `encoder.cache-directory`.",
    )
    metrics: str = setting(
        "full",
        "Scores of groups: `full` (exact, outside of the guarantee); `noisy` (means over groups "
        "only, with noise, paid for); `off`.",
    )
    metrics_noise_multiplier: float = setting(
        5.0, "`noisy` metrics: noise's standard deviation over a group's influence."
    )
    secure_aggregation: bool = setting(
        False, "Let the server see no client's update, only their sum (SecAgg+)."
    )

    def __post_init__(self) -> None:
        require_choice("privacy.unit", self.unit, UNITS)
        require_choice("privacy.accountant", self.accountant, ACCOUNTANTS)
        require_choice("privacy.metrics", self.metrics, METRICS)
        require_choice("privacy.histogram-noise", self.histogram_noise, HISTOGRAM_NOISES)
        for name in ("noise_multiplier", "max_epsilon", "clipping_count_noise"):
            value = getattr(self, name)
            require(value >= 0, _key(name), value, "a number >= 0")
        for name in (
            "clipping_learning_rate",
            "gradient_clipping_norm",
            "metrics_noise_multiplier",
        ):
            value = getattr(self, name)
            require(value > 0, _key(name), value, "a number > 0")
        require(0 < self.delta < 1, "privacy.delta", self.delta, "a number between 0 and 1")
        require(
            0 <= self.clipping_quantile < 1,
            "privacy.clipping-quantile",
            self.clipping_quantile,
            "a number from 0 to below 1",
        )
        require(self.num_bands >= 1, "privacy.num-bands", self.num_bands, "an integer >= 1")
        require(
            self.questions_per_episode >= 2,
            "privacy.questions-per-episode",
            self.questions_per_episode,
            "an integer >= 2",
        )
        require(
            0 < self.sample_rate <= 1,
            "privacy.sample-rate",
            self.sample_rate,
            "a number above 0 and at most 1",
        )
        for name in ("respondents", "questions_per_respondent"):
            value = getattr(self, name)
            require(value >= 0, _key(name), value, "an integer >= 0")
        if self.unit == "none":
            require(
                self.noise_multiplier == 0,
                "privacy.noise-multiplier",
                self.noise_multiplier,
                "0 where privacy.unit = 'none'",
            )
            require(
                self.max_epsilon == 0,
                "privacy.max-epsilon",
                self.max_epsilon,
                "0 where privacy.unit = 'none'",
            )
            require(
                self.metrics != "noisy",
                "privacy.metrics",
                self.metrics,
                "'full' or 'off' where privacy.unit = 'none'",
            )
        require(
            self.clipping_quantile == 0 or self.num_bands == 1,
            "privacy.num-bands",
            self.num_bands,
            "1 with privacy.clipping-quantile: correlated noise needs a fixed clipping norm",
        )
        if self.unit == "member":
            require(
                self.metrics != "noisy",
                "privacy.metrics",
                self.metrics,
                "'full' or 'off' where privacy.unit = 'member': scores are computed from noisy "
                "histograms already",
            )
        if self.unit != "client":
            for name, value, off in (
                ("clipping_quantile", self.clipping_quantile, 0.0),
                ("num_bands", self.num_bands, 1),
            ):
                require(value == off, _key(name), value, f"{off} unless privacy.unit = 'client'")


def _key(name: str) -> str:
    return f"privacy.{name.replace('_', '-')}"
