"""AlignConfig: every setting of `pluralllm align`.

As in `task.config`, a field `train.lora_rank` is the key `train.lora-rank` in `conf/align.toml` and
on the command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from task.config import NODES, DataConfig, parse_override, read_toml, split_names
from task.errors import ConfigError, suggest
from task.settings import Scalar, require, require_choice, setting, typed

METHODS = ("grpo", "best-of-n")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """`align.*`: what to align to, and how."""

    directory: str = setting("", "Where results are written. Empty: `alignments/<time>`.")
    seed: int = setting(0, "Seed of the split, the policy, and training.")
    targets: str = setting(
        "mean",
        "What to align to, separated by `|`, one after another: `group:NAME` (that group alone), "
        "or a rule for all groups: `mean`, `min`, `max`, `nash`, `adaptive-alpha`.",
    )
    method: str = setting(
        "grpo", "`grpo` (TRL's trainer), or `best-of-n` (no training: the best of n answers)."
    )
    best_of: int = setting(4, "`best-of-n`: answers sampled from the policy.")

    def __post_init__(self) -> None:
        require(self.seed >= 0, "align.seed", self.seed, "an integer >= 0")
        require_choice("align.method", self.method, METHODS)
        require(self.best_of >= 2, "align.best-of", self.best_of, "an integer >= 2")
        names = split_names(self.targets)
        require(bool(names), "align.targets", self.targets, "one target or more")
        require(
            len(set(names)) == len(names), "align.targets", self.targets, "no target named twice"
        )


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """`reward.*`: the reward model, and whose preferences count."""

    path: str = setting("", "The reward model: an exported folder, a run directory, or a hub id.")
    which: str = setting("best", "Predictor of a run directory: `best` or `final`.")
    encoder: str = setting("", "Hub id or folder of the predictor's encoder, if it has moved.")
    held_out_path: str = setting(
        "",
        "Another reward model, trained with another seed or on other groups, that judges win "
        "rates. Empty: the survey's true shares do.",
    )
    groups: str = setting(
        "",
        "Groups that count, separated by `|`. Empty: all whose context the reward model holds; of "
        "a run directory, all its groups.",
    )
    num_context: int = setting(
        20,
        "Answered questions of the survey from which a group's preferences are inferred, where the "
        "reward model holds no context of it; never held-out questions.",
    )
    floor: float = setting(
        -5.0, "Log share of an answer that names no option, and the lowest of any answer."
    )
    alpha_temperature: float = setting(0.1, "`adaptive-alpha`: temperature of the weights.")
    alpha_decay: float = setting(0.9, "`adaptive-alpha`: kept of the average in each step.")
    alpha_fairness_threshold: float = setting(
        1.0, "`adaptive-alpha`: fairness index from which on all groups count the same. 1: never."
    )

    def __post_init__(self) -> None:
        require_choice("reward.which", self.which, ("best", "final"))
        require(self.num_context >= 1, "reward.num-context", self.num_context, "an integer >= 1")
        require(self.floor < 0, "reward.floor", self.floor, "a number below 0")


@dataclass(frozen=True, kw_only=True)
class QuestionSettings:
    """`questions.*`: which questions of the survey train the policy and which are held out."""

    held_out_fraction: float = setting(
        0.2, "Share of the questions, drawn by the seed, that are only ever evaluated."
    )
    survey_seed: int = setting(
        0, "`run.seed` of the run that trained the reward: a `synthetic` survey follows from it."
    )
    most_characters: int = setting(
        0, "Leave out questions whose prompt is longer than this; long prompts take time. 0: none."
    )
    most_train: int = setting(0, "Most training questions. 0: all.")
    most_held_out: int = setting(0, "Most held-out questions that are evaluated. 0: all.")

    def __post_init__(self) -> None:
        require(
            0 < self.held_out_fraction < 1,
            "questions.held-out-fraction",
            self.held_out_fraction,
            "a number between 0 and 1, both excluded",
        )
        for name in ("most_characters", "most_train", "most_held_out"):
            value = getattr(self, name)
            require(value >= 0, f"questions.{_dashed(name)}", value, "an integer >= 0")


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """`policy.*`: the language model."""

    path: str = setting(
        "", "A causal language model: a local folder or a hub id. Empty: one is made, see below."
    )
    layers: int = setting(4, "Made model (a Llama): layers.")
    width: int = setting(64, "Made model: width.")
    heads: int = setting(4, "Made model: attention heads; must divide `policy.width`.")
    vocabulary: int = setting(
        2048, "Made model: tokens of its byte-pair tokenizer, learnt from the training questions."
    )
    warm_up_steps: int = setting(
        800,
        "Made model: supervised steps on the training questions after which it answers with a "
        "uniformly random option's letter: the base model, which knows nobody.",
    )
    warm_up_learning_rate: float = setting(
        2e-3, "Made model: AdamW's learning rate, up in 50 steps and cosine to 0."
    )
    warm_up_batch: int = setting(32, "Made model: questions in a supervised step.")
    batch: int = setting(64, "Questions per forward pass of the evaluation.")
    device: str = setting("auto", "`auto` (a GPU if there is one), `cpu` or `cuda`.")
    dtype: str = setting("float32", "`float32` or `bfloat16`.")

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "warm_up_batch", "batch"):
            value = getattr(self, name)
            require(value >= 1, f"policy.{_dashed(name)}", value, "an integer >= 1")
        require(
            self.width % (2 * self.heads) == 0,
            "policy.heads",
            self.heads,
            f"a number whose double divides policy.width ({self.width})",
        )
        require(self.vocabulary >= 400, "policy.vocabulary", self.vocabulary, "an integer >= 400")
        require(
            self.warm_up_steps >= 0, "policy.warm-up-steps", self.warm_up_steps, "an integer >= 0"
        )
        require(
            self.warm_up_learning_rate > 0,
            "policy.warm-up-learning-rate",
            self.warm_up_learning_rate,
            "a number > 0",
        )
        require_choice("policy.device", self.device, DEVICES)
        require_choice("policy.dtype", self.dtype, DTYPES)


@dataclass(frozen=True, kw_only=True)
class GrpoSettings:
    """`train.*`: GRPO."""

    steps: int = setting(200, "Optimizer steps for each target.")
    prompts: int = setting(32, "Questions in a step.")
    generations: int = setting(4, "Answers sampled for each of them.")
    sequences_per_pass: int = setting(
        0, "Answers in one forward and backward pass, to save memory. 0: all of a step."
    )
    learning_rate: float = setting(3e-3, "AdamW's learning rate, cosine to 0.")
    beta: float = setting(
        1.0, "Weight of the KL divergence from the base model; 1: see docs/alignment.md."
    )
    lora_rank: int = setting(8, "Rank of the LoRA adapter. 0: train all parameters.")
    lora_alpha: float = setting(16.0, "LoRA's scale is this divided by its rank.")
    max_gradient_norm: float = setting(
        0.0, "Clip gradients to this norm. 0: do not; clipping moves the optimum."
    )

    def __post_init__(self) -> None:
        for name in ("steps", "prompts"):
            value = getattr(self, name)
            require(value >= 1, f"train.{name}", value, "an integer >= 1")
        require(self.generations >= 2, "train.generations", self.generations, "an integer >= 2")
        size = self.prompts * self.generations
        per_pass = self.sequences_per_pass
        require(
            per_pass == 0 or (0 < per_pass <= size and size % per_pass == 0),
            "train.sequences-per-pass",
            per_pass,
            f"0, or a divisor of train.prompts x train.generations ({size})",
        )
        require(self.learning_rate > 0, "train.learning-rate", self.learning_rate, "a number > 0")
        require(self.beta > 0, "train.beta", self.beta, "a number > 0")
        require(self.lora_rank >= 0, "train.lora-rank", self.lora_rank, "an integer >= 0")
        require(self.lora_alpha > 0, "train.lora-alpha", self.lora_alpha, "a number > 0")
        require(
            self.max_gradient_norm >= 0,
            "train.max-gradient-norm",
            self.max_gradient_norm,
            "a number >= 0",
        )


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """All settings of an alignment."""

    align: AlignSettings = field(default_factory=AlignSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    data: DataConfig = field(default_factory=DataConfig)
    questions: QuestionSettings = field(default_factory=QuestionSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    train: GrpoSettings = field(default_factory=GrpoSettings)

    def __post_init__(self) -> None:
        require(
            bool(self.reward.path),
            "reward.path",
            self.reward.path,
            "an exported reward model, a run directory or a hub id",
        )
        require(
            self.data.source != NODES,
            "data.source",
            self.data.source,
            "a survey that this machine can read: it holds the questions and the true answers",
        )

    @classmethod
    def from_flat(cls, flat: Mapping[str, Scalar]) -> "AlignConfig":
        """Parse and validate dotted keys.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or is impossible.
        """
        defaults = default_settings()
        values: dict[str, dict[str, Scalar]] = {item.name: {} for item in fields(cls)}
        for key, value in flat.items():
            if key not in defaults:
                raise ConfigError(
                    f"Unknown setting {key!r}.{suggest(key, defaults)} docs/alignment.md lists all."
                )
            section, name = key.split(".", 1)
            values[section][name.replace("-", "_")] = typed(key, value, defaults[key])
        return cls(**{name: kind(**values[name]) for name, kind in _sections().items()})

    @classmethod
    def parse(cls, settings: Sequence[str]) -> "AlignConfig":
        """Merge `.toml` files and `key=value` texts, later ones winning.

        Raises:
            ConfigError: a file is missing, or a key or value is wrong.
        """
        flat: dict[str, Scalar] = {}
        for text in settings:
            if text.endswith(".toml") and "=" not in text:
                flat.update(read_toml(Path(text)))
            else:
                flat.update([parse_override(text)])
        return cls.from_flat(flat)

    def to_flat(self) -> dict[str, Scalar]:
        """Return every key with its value."""
        return {
            f"{section.name}.{_dashed(item.name)}": getattr(getattr(self, section.name), item.name)
            for section in fields(self)
            for item in fields(getattr(self, section.name))
        }


def default_settings() -> dict[str, Scalar]:
    """Return every key with its default."""
    return {
        f"{section}.{_dashed(item.name)}": cast(Scalar, item.default)
        for section, kind in _sections().items()
        for item in fields(kind)
    }


def help_texts() -> dict[str, str]:
    """Return what each key means, in the order of the sections."""
    return {
        f"{section}.{_dashed(item.name)}": item.metadata["help"]
        for section, kind in _sections().items()
        for item in fields(kind)
    }


def _sections() -> dict[str, Any]:
    return {item.name: item.default_factory for item in fields(AlignConfig)}


def _dashed(name: str) -> str:
    return name.replace("_", "-")
