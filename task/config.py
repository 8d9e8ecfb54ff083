"""RunConfig: every setting of a run, parsed once from Flower's flat run config and validated.

The keys, their defaults and their types are the dataclass fields below: `train.num_rounds`
here is `train.num-rounds` in `pyproject.toml`, in `conf/*.toml` and on the command line.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from task.errors import ConfigError, suggest
from task.operations_config import CheckpointConfig, NodesConfig
from task.options import fold_options, parse_options
from task.privacy_config import PrivacyConfig
from task.settings import Scalar, require, require_choice, setting, typed

HASHING = "hashing"
NODES = "nodes"
SOURCES = ("synthetic", "global-opinions", "table", "pairs", "ratings", NODES)
COMPARISONS = ("pairs", "ratings")
CLIENTS = ("groups", "users")
FILE_SUFFIXES = (".csv", ".jsonl", ".parquet")
OBJECTIVES = ("categorical", "gaussian")
SCHEDULES = ("constant", "cosine")
TEXT_FORMATS = ("question-option", "alpaca")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")
ENGINES = ("flower", "cohort")
SAMPLINGS = ("without-replacement", "poisson", "cyclic")
PRECISIONS = ("float32", "tf32", "bfloat16")
COMPRESSIONS = ("none", "bfloat16", "int8", "top-k")


def split_names(text: str) -> tuple[str, ...]:
    """Split a `|`-separated list of names (some country names contain commas)."""
    return tuple(name.strip() for name in text.split("|") if name.strip())


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """`run.*`: the run as a whole."""

    seed: int = setting(0, "Seed from which all randomness of the run derives.")
    directory: str = setting(
        "",
        "Where the run is written. Empty: `runs/<time>-<source>-seed<seed>`. Relative paths are "
        "taken from the project folder (`flwr run`) or the current folder (`pluralllm run`).",
    )
    resume: str = setting(
        "",
        "Run directory of a run to continue from its last checkpoint, with the same settings. "
        "`pluralllm run run.resume=DIR` takes them from there; for `flwr run` they are in "
        "`DIR/resume.toml`.",
    )

    def __post_init__(self) -> None:
        require(self.seed >= 0, "run.seed", self.seed, "an integer >= 0")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """`data.*`: the survey, and which of its groups train and which are held out."""

    source: str = setting(
        "synthetic",
        "Survey source: `synthetic`, `global-opinions`, `table`, `pairs` (comparisons of two "
        "responses), `ratings` (scores of responses; docs/data.md), or `nodes`: every SuperNode "
        "serves the file that its own `--node-config` names (docs/deploy.md).",
    )
    path: str = setting(
        "",
        "Survey file. `table`: CSV, JSONL or Parquet in long form. `global-opinions`: a local copy "
        "(CSV or Parquet); empty: `Anthropic/llm_global_opinions` from the Hugging Face hub. "
        "`pairs`, `ratings`: CSV, JSONL or Parquet, or a data set's local folder or hub id.",
    )
    clients: str = setting(
        "groups",
        "What a client is: `groups`, or `users`: every user of a column `user` is a client of its "
        "own, named GROUP/USER, and scores are still told per group (`table`, `pairs`, `ratings`).",
    )
    train_groups: str = setting(
        "",
        "Groups that train, separated by `|`. Empty: all eligible groups not held out. Where "
        "clients are users, also single ones, by their names GROUP/USER.",
    )
    held_out_groups: str = setting(
        "",
        "Groups that are evaluated but never train, separated by `|`. Empty, with "
        "`data.train-groups` empty too: a seeded draw of `data.num-held-out-groups`.",
    )
    num_held_out_groups: int = setting(
        4, "How many eligible groups the seeded draw holds out, when no group is named."
    )
    min_questions: int = setting(
        0,
        "A group, or user, chosen by rule (not by its own name) needs at least this many answered "
        "questions.",
    )
    held_back_fraction: float = setting(
        0.1,
        "Share of a training group's questions that never train; the training groups' scores and "
        "the choice of the best predictor come from them.",
    )
    synthetic_groups: int = setting(20, "`synthetic`: number of groups.")
    synthetic_questions: int = setting(400, "`synthetic`: number of questions.")
    synthetic_answered: int = setting(60, "`synthetic`: questions answered by each group.")

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, SOURCES)
        require_choice("data.clients", self.clients, CLIENTS)
        if self.source in ("table", *COMPARISONS):
            or_other = ", a folder or a hub id" if self.source in COMPARISONS else ""
            expected = f"a file{or_other} when data.source is {self.source!r}"
            require(bool(self.path), "data.path", self.path, expected)
        if self.by_user:
            require(
                self.source in ("table", *COMPARISONS),
                "data.clients",
                self.clients,
                f"'groups' when data.source is {self.source!r}: users are told apart by the column "
                f"`user` of {', '.join(('table', *COMPARISONS))}",
            )
        if self.source == "synthetic":
            require(
                not self.path, "data.path", self.path, "nothing when data.source is 'synthetic'"
            )
        overlap = sorted(set(self.train_group_names) & set(self.held_out_group_names))
        if overlap:
            raise ConfigError(
                f"data.train-groups and data.held-out-groups both name {overlap[0]!r}: a group "
                "either trains or is held out."
            )
        for key, value in (
            ("data.num-held-out-groups", self.num_held_out_groups),
            ("data.min-questions", self.min_questions),
        ):
            require(value >= 0, key, value, "an integer >= 0")
        require(
            0 < self.held_back_fraction < 1,
            "data.held-back-fraction",
            self.held_back_fraction,
            "a number between 0 and 1, both excluded",
        )
        require(
            self.synthetic_groups >= 2,
            "data.synthetic-groups",
            self.synthetic_groups,
            "an integer >= 2",
        )
        require(
            self.synthetic_questions >= 2,
            "data.synthetic-questions",
            self.synthetic_questions,
            "an integer >= 2",
        )
        require(
            2 <= self.synthetic_answered <= self.synthetic_questions,
            "data.synthetic-answered",
            self.synthetic_answered,
            f"an integer from 2 to data.synthetic-questions ({self.synthetic_questions})",
        )

    @property
    def by_user(self) -> bool:
        """Whether every user is a client of its own."""
        return self.clients == "users"

    @property
    def train_group_names(self) -> tuple[str, ...]:
        """The groups named in `data.train-groups`."""
        return split_names(self.train_groups)

    @property
    def held_out_group_names(self) -> tuple[str, ...]:
        """The groups named in `data.held-out-groups`."""
        return split_names(self.held_out_groups)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """`encoder.*`: from question and option text to features."""

    name: str = setting(
        HASHING,
        "`hashing` (feature hashing, no download), or a `transformers` model: a hub id or a local "
        "folder.",
    )
    revision: str = setting("", "Revision of a hub model. Empty: its default branch.")
    text_format: str = setting(
        "question-option",
        "Text given to the encoder: `question-option`, or `alpaca` (the paper's prompt).",
    )
    dimension: int = setting(128, "`hashing`: number of features.")
    batch_size: int = setting(64, "Texts per forward pass of a `transformers` model.")
    max_length: int = setting(
        512, "Tokens after which a text is cut (never above the model's own limit)."
    )
    device: str = setting("auto", "`auto`, `cpu`, `cuda` or `mps`.")
    dtype: str = setting(
        "auto", "`auto` (the one the model was saved in), `float32`, `float16` or `bfloat16`."
    )
    cache_directory: str = setting(
        "",
        "Where features are cached. Empty: `$PLURALLLM_CACHE`, else `~/.cache/pluralllm`.",
    )

    def __post_init__(self) -> None:
        require(bool(self.name), "encoder.name", self.name, "'hashing', a hub id or a folder")
        require_choice("encoder.text-format", self.text_format, TEXT_FORMATS)
        require_choice("encoder.device", self.device, DEVICES)
        require_choice("encoder.dtype", self.dtype, DTYPES)
        require(self.dimension >= 1, "encoder.dimension", self.dimension, "an integer >= 1")
        require(self.batch_size >= 1, "encoder.batch-size", self.batch_size, "an integer >= 1")
        require(self.max_length >= 8, "encoder.max-length", self.max_length, "an integer >= 8")


@dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """`predictor.*`: the preference predictor (GPO's transformer)."""

    width: int = setting(128, "Width of the tokens (GPO's d_model).")
    embedder_depth: int = setting(4, "Linear layers of the token embedder.")
    num_layers: int = setting(6, "Transformer layers.")
    num_heads: int = setting(4, "Attention heads; must divide `predictor.width`.")
    feedforward_width: int = setting(128, "Width of the feed-forward layers and of the head.")
    answer_gain: float = setting(
        20.0,
        "Initial weight of a token's answer share relative to one feature (1: GPO's). A share is "
        "one input among hundreds of features; a larger gain lets context tell sooner.",
    )
    population_weight: float = setting(
        0.0,
        "Mix the training groups' own answers to a question into its prediction: each counts as "
        "this many of the network's. 0: do not. Otherwise training groups send their answers to "
        "the server, and their sums go to all clients and into the saved predictor; where one "
        "group alone was asked, the sum is its answer.",
    )
    standardise_features: bool = setting(
        True,
        "Give the predictor z-scored features (mean and variance pooled over the training groups' "
        "questions, obtained as sums).",
    )

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "feedforward_width"):
            value = getattr(self, name)
            require(value >= 1, f"predictor.{_dashed(name)}", value, "an integer >= 1")
        require(
            self.embedder_depth >= 2,
            "predictor.embedder-depth",
            self.embedder_depth,
            "an integer >= 2",
        )
        require(
            self.population_weight >= 0,
            "predictor.population-weight",
            self.population_weight,
            "a number >= 0",
        )
        require(self.answer_gain > 0, "predictor.answer-gain", self.answer_gain, "a number > 0")
        require(
            self.width % self.num_heads == 0,
            "predictor.num-heads",
            self.num_heads,
            f"a divisor of predictor.width ({self.width})",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`train.*`: the rounds, and local training on a client."""

    num_rounds: int = setting(30, "Federated rounds.")
    local_steps: int = setting(6, "Optimizer steps of each client in a round.")
    episodes_per_step: int = setting(1, "Episodes averaged in one optimizer step.")
    objective: str = setting(
        "categorical",
        "`categorical` (cross-entropy against the answer distribution) or `gaussian` (the paper's "
        "likelihood).",
    )
    learning_rate: float = setting(2e-3, "Adam's learning rate (its peak, with a schedule).")
    schedule: str = setting(
        "cosine", "Learning rate over the whole run: `constant`, or `cosine` down to 0."
    )
    weight_decay: float = setting(0.0, "Decoupled weight decay (AdamW).")
    feature_dropout: float = setting(
        0.0,
        "Share of the features that are dropped in a training episode, the same ones for all its "
        "options (dropout). Keeps the predictor from knowing questions by heart.",
    )
    min_context: int = setting(10, "Fewest context questions of a training episode.")
    max_context: int = setting(100, "Most context questions of a training episode.")
    min_target: int = setting(10, "Fewest target questions of a training episode.")
    max_target: int = setting(100, "Most target questions of a training episode.")
    clients_per_round: int = setting(
        0, "Training clients of a round's cohort (`poisson`: on average). 0: all."
    )
    sampling: str = setting(
        "without-replacement",
        "How a cohort is drawn: `without-replacement` (a uniform draw of fixed size); `poisson` "
        "(each client by itself, for amplification by sampling); `cyclic` (all clients in turn, "
        "in a seeded order).",
    )
    min_valid_fraction: float = setting(
        0.5, "The run stops when a smaller share of a round's clients sends a valid reply."
    )
    round_timeout: float = setting(3600.0, "Seconds to wait for the replies of a round.")

    def __post_init__(self) -> None:
        require_choice("train.objective", self.objective, OBJECTIVES)
        require_choice("train.schedule", self.schedule, SCHEDULES)
        require_choice("train.sampling", self.sampling, SAMPLINGS)
        require(
            self.sampling == "without-replacement" or self.clients_per_round > 0,
            "train.clients-per-round",
            self.clients_per_round,
            f"an integer above 0 with train.sampling = {self.sampling!r}",
        )
        for name in (
            "num_rounds",
            "local_steps",
            "episodes_per_step",
            "min_context",
            "min_target",
        ):
            value = getattr(self, name)
            require(value >= 1, f"train.{_dashed(name)}", value, "an integer >= 1")
        for low, high in (("min_context", "max_context"), ("min_target", "max_target")):
            value, floor = getattr(self, high), getattr(self, low)
            require(
                value >= floor,
                f"train.{_dashed(high)}",
                value,
                f"an integer >= train.{_dashed(low)} ({floor})",
            )
        require(self.learning_rate > 0, "train.learning-rate", self.learning_rate, "a number > 0")
        require(self.weight_decay >= 0, "train.weight-decay", self.weight_decay, "a number >= 0")
        require(
            0 <= self.feature_dropout < 1,
            "train.feature-dropout",
            self.feature_dropout,
            "a number from 0 to below 1",
        )
        require(
            self.clients_per_round >= 0,
            "train.clients-per-round",
            self.clients_per_round,
            "an integer >= 0",
        )
        require(
            0 < self.min_valid_fraction <= 1,
            "train.min-valid-fraction",
            self.min_valid_fraction,
            "a number above 0 and at most 1",
        )
        require(self.round_timeout > 0, "train.round-timeout", self.round_timeout, "a number > 0")

    def learning_rates(self, server_round: int) -> list[float]:
        """Return the learning rate of each local step of a round (rounds count from 1).

        The schedule runs over all `num_rounds * local_steps` steps of the run, so it neither
        restarts each round nor depends on how many clients take part.
        """
        if self.schedule == "constant":
            return [self.learning_rate] * self.local_steps
        total = self.num_rounds * self.local_steps
        first = (server_round - 1) * self.local_steps
        return [
            0.5 * self.learning_rate * (1 + math.cos(math.pi * (first + step) / total))
            for step in range(self.local_steps)
        ]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """`evaluation.*`: how a group is scored."""

    every: int = setting(5, "Evaluate every this many rounds (and before the first, and at last).")
    num_context: int = setting(20, "Context questions; all others of the group are targets.")
    num_draws: int = setting(4, "Seeded draws of the context questions that a score averages.")
    retries: int = setting(
        1, "How often a client whose evaluation failed is asked again in the same round."
    )

    def __post_init__(self) -> None:
        require(self.retries >= 0, "evaluation.retries", self.retries, "an integer >= 0")
        for name in ("every", "num_context", "num_draws"):
            value = getattr(self, name)
            require(value >= 1, f"evaluation.{_dashed(name)}", value, "an integer >= 1")


@dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """`strategy.*`: the aggregation rule."""

    name: str = setting(
        "fedavg",
        "Aggregation rule: a name of docs/strategies.md, or one of your own: `module:Class`, or "
        "`path/to/file.py:Class`.",
    )
    options: str = setting(
        "",
        "Options of the strategy, `name=value` separated by spaces (docs/strategies.md). Also: a "
        "table `[strategy.options]` in a file, `strategy.options.q=0.2` on the command line.",
    )
    clipping_norm: float = setting(
        0.0,
        "Clip every client's update (all parameters together) to this L2 norm before any strategy "
        "sees it. 0: no clipping.",
    )
    bound_updates: bool = setting(
        True,
        "Reject, and name, a client whose update is larger than Adam can make it with the round's "
        "learning rates. Clients of your own with another optimizer need false.",
    )

    def __post_init__(self) -> None:
        require(bool(self.name), "strategy.name", self.name, "the name of a strategy")
        parse_options(self.options)
        require(
            self.clipping_norm >= 0, "strategy.clipping-norm", self.clipping_norm, "a number >= 0"
        )


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """`compression.*`: how clients compress the updates they send."""

    name: str = setting(
        "none",
        "`none`; `bfloat16` (2x smaller); `int8` (stochastic rounding, 3.9x); `top-k` (the largest "
        "entries only, with error feedback).",
    )
    top_k_fraction: float = setting(0.1, "`top-k`: share of the update's entries that are sent.")

    def __post_init__(self) -> None:
        require_choice("compression.name", self.name, COMPRESSIONS)
        require(
            0 < self.top_k_fraction <= 1,
            "compression.top-k-fraction",
            self.top_k_fraction,
            "a number above 0 and at most 1",
        )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """`engine.*`: what computes the clients."""

    name: str = setting(
        "flower",
        "`flower`: the nodes of the Flower federation (simulated or real). `cohort`: this process "
        "simulates all clients at once, for the same results without Flower's cost per client.",
    )
    num_workers: int = setting(
        0,
        "`cohort`: resident workers. 0: one per GPU, else one per 8 cores. Several are Ray actors; "
        "a single one is the server's own process, without Ray.",
    )
    num_threads: int = setting(
        0,
        "`cohort`: threads per worker, each training a stack of its own. 0: on CPU the machine's "
        "cores over the workers, on a GPU two.",
    )
    stack_size: int = setting(
        0,
        "`cohort`: clients trained as one batched computation. 0: as many as pay and memory "
        "allows; 1: one after another, bit for bit as the `flower` engine does.",
    )
    device: str = setting(
        "auto", "Where clients train: `auto` (CUDA if there is any), `cpu` or `cuda`."
    )
    precision: str = setting(
        "float32",
        "`cohort`: `float32`, `tf32` (float32 with TF32 matrix products) or `bfloat16` (autocast; "
        "parameters stay float32).",
    )

    def __post_init__(self) -> None:
        require_choice("engine.name", self.name, ENGINES)
        require_choice("engine.device", self.device, ("auto", "cpu", "cuda"))
        require_choice("engine.precision", self.precision, PRECISIONS)
        for name in ("num_workers", "num_threads", "stack_size"):
            value = getattr(self, name)
            require(value >= 0, f"engine.{_dashed(name)}", value, "an integer >= 0")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """`log.*`: where metrics go besides `metrics.jsonl`, which is always written."""

    tensorboard: bool = setting(False, "Also write TensorBoard events into the run directory.")
    wandb_project: str = setting(
        "", "Also log to this Weights & Biases project (needs the `wandb` package)."
    )
    flower: bool = setting(False, "Show Flower's own log lines between the rounds.")
    json: bool = setting(
        False, "Print one JSON object per event (time, level, event, fields) instead of tables."
    )
    prometheus_port: int = setting(
        0, "Serve Prometheus metrics of the run on this port of the server's process. 0: do not."
    )
    prometheus_host: str = setting(
        "127.0.0.1", "Address that serves them; 0.0.0.0: all of the machine's."
    )

    def __post_init__(self) -> None:
        require(
            0 <= self.prometheus_port <= 65535,
            "log.prometheus-port",
            self.prometheus_port,
            "a port from 0 to 65535",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run, one section per field."""

    run: RunSettings = field(default_factory=RunSettings)
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorSettings = field(default_factory=PredictorSettings)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    nodes: NodesConfig = field(default_factory=NodesConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        self._require_consistent_privacy()

    def _require_consistent_privacy(self) -> None:
        """Raise a `ConfigError` where other settings would break what `privacy.*` promises."""
        unit = self.privacy.unit
        if unit == "client":
            require(
                self.strategy.clipping_norm > 0,
                "strategy.clipping-norm",
                self.strategy.clipping_norm,
                "a number above 0 where privacy.unit = 'client'",
            )
        if self.privacy.num_bands > 1:
            require(
                self.train.sampling == "cyclic",
                "train.sampling",
                self.train.sampling,
                "'cyclic' where privacy.num-bands is above 1",
            )
        if unit in ("client", "question"):
            require(
                self.predictor.population_weight == 0,
                "predictor.population-weight",
                self.predictor.population_weight,
                f"0 where privacy.unit = {unit!r}: training groups would send their answers",
            )
        if self.privacy.secure_aggregation:
            require(
                unit != "client" or self.privacy.metrics != "noisy",
                "privacy.metrics",
                self.privacy.metrics,
                "'off' or 'full' with privacy.secure-aggregation and privacy.unit = 'client': the "
                "server would get exact scores to add noise to",
            )
            require(
                self.compression.name == "none",
                "compression.name",
                self.compression.name,
                "'none' with privacy.secure-aggregation: masked integers cannot be compressed",
            )
            require(
                self.privacy.clipping_quantile == 0 and self.privacy.num_bands == 1,
                "privacy.secure-aggregation",
                True,
                "false with privacy.clipping-quantile or privacy.num-bands: the server cannot "
                "count clipped updates, nor clients correlate their noise",
            )

    @classmethod
    def from_flat(cls, flat: Mapping[str, Scalar]) -> "RunConfig":
        """Parse dotted keys, as Flower hands them over; keys left out keep their defaults.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or is impossible.
        """
        known = _sections()
        values: dict[str, dict[str, Scalar]] = {name: {} for name in known}
        all_keys = cls().to_flat()
        for key, value in fold_options(flat).items():
            if key not in all_keys:
                raise ConfigError(
                    f"Unknown config key {key!r}.{suggest(key, all_keys)} "
                    "`pluralllm config` lists every key."
                )
            section, name = key.split(".", 1)
            values[section][name.replace("-", "_")] = typed(key, value, all_keys[key])
        config = cls(**{name: known[name](**values[name]) for name in known})
        if config.data.source == NODES:  # only a node itself adds these (`task.node_config`)
            for key in ("path", "train_groups", "held_out_groups"):
                given = getattr(config.data, key)
                expected = "nothing when data.source is 'nodes': each node's own config says it"
                require(not given, f"data.{_dashed(key)}", given, expected)
        return config

    def with_absolute_paths(self, base: Path) -> "RunConfig":
        """Return this config with relative paths taken from `base`.

        Flower's processes run in folders that the user does not choose, so no path stays relative.
        `encoder.name` is a path when it is a folder below `base`, otherwise a hub id. So is
        `data.path` of comparisons, but for what ends like a file.
        """

        def absolute(path: str) -> str:
            return str(base / Path(path).expanduser()) if path else ""

        survey = base / Path(self.data.path).expanduser()
        is_local = survey.exists() or survey.suffix in FILE_SUFFIXES
        on_hub = self.data.source in COMPARISONS and not is_local
        folder = base / Path(self.encoder.name).expanduser()
        is_folder = self.encoder.name != HASHING and folder.is_dir()
        encoder = replace(
            self.encoder,
            name=str(folder) if is_folder else self.encoder.name,
            cache_directory=absolute(self.encoder.cache_directory),
        )
        return replace(
            self,
            run=replace(
                self.run,
                directory=absolute(self.run.directory),
                resume=absolute(self.run.resume),
            ),
            nodes=replace(self.nodes, registry=absolute(self.nodes.registry)),
            data=self.data if on_hub else replace(self.data, path=absolute(self.data.path)),
            encoder=encoder,
            privacy=replace(
                self.privacy, noise_key_directory=absolute(self.privacy.noise_key_directory)
            ),
            strategy=replace(self.strategy, name=_absolute_strategy(self.strategy.name, base)),
        )

    def result_settings(self) -> dict[str, Scalar]:
        """Return the settings that a result depends on besides the data.

        Without paths and engines: a run repeats elsewhere, and under another engine.
        """
        left_out = (
            "run.directory",
            "run.resume",
            "data.path",
            "encoder.name",
            "encoder.cache-directory",
            "privacy.noise-key-directory",
        )
        of_operation = ("engine", "log", "checkpoint", "nodes")
        flat = {k: v for k, v in self.to_flat().items() if k not in left_out}
        flat = {k: v for k, v in flat.items() if k.split(".")[0] not in of_operation}
        flat["strategy.name"] = str(flat["strategy.name"]).rpartition("/")[2]
        if not self.data.by_user:  # noise derives from these: a release stays what it was
            del flat["data.clients"]
        return flat

    def release_settings(self) -> str:
        """Return what a private release depends on besides data and parameters, as one text."""
        return repr(sorted(self.result_settings().items()))

    def to_flat(self) -> dict[str, Scalar]:
        """Return every key with its value; `from_flat` of it gives this config back."""
        return {
            f"{section.name}.{_dashed(item.name)}": getattr(getattr(self, section.name), item.name)
            for section in fields(self)
            for item in fields(getattr(self, section.name))
        }


def help_texts() -> dict[str, str]:
    """Return what each key means, in the order of the sections."""
    return {
        f"{section}.{_dashed(item.name)}": item.metadata["help"]
        for section, kind in _sections().items()
        for item in fields(kind)
    }


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Turn nested TOML tables into dotted keys."""
    flat: dict[str, Scalar] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_toml(path: Path) -> dict[str, Scalar]:
    """Read a `conf/*.toml` file as dotted keys.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        return fold_options(flatten(tomllib.loads(path.read_text())))
    except OSError as error:
        raise ConfigError(f"Config file {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config file {path} is not valid TOML: {error}") from None


def parse_override(text: str) -> tuple[str, Scalar]:
    """Parse one `key=value` of the command line; a value that is not TOML is a string.

    Raises:
        ConfigError: there is no `=`.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"Expected key=value or a .toml file, got {text!r}.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    is_text = isinstance(RunConfig().to_flat().get(key.strip()), str)
    if is_text and not isinstance(parsed, str | bool):
        parsed = value  # a text that looks like a number stays as it is written
    return key.strip(), parsed if isinstance(parsed, bool | int | float | str) else value


def _absolute_strategy(name: str, base: Path) -> str:
    """Return `file.py:Class` with the file's absolute path; other names as they are."""
    file, _, attribute = name.rpartition(":")
    return f"{base / Path(file).expanduser()}:{attribute}" if file.endswith(".py") else name


def _sections() -> dict[str, Any]:
    return {item.name: item.default_factory for item in fields(RunConfig)}


def _dashed(name: str) -> str:
    return name.replace("_", "-")
