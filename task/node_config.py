"""What a SuperNode's own `--node-config` says: the data it serves, and what it insists on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from task.config import NODES, RunConfig, split_names
from task.errors import ConfigError, NodeConfigError, suggest
from task.respondent_accounting import member_epsilon
from task.scoring_config import ScoreConfig
from task.settings import Scalar, require, require_choice, setting, typed
from task.sources import load_asked

ROLES = ("train", "held-out")
PRIVACY_UNITS = ("", "client", "question", "member")


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """The keys of `flower-supernode --node-config 'key="text" ...'`, on the owner's machine."""

    data_path: str = setting(
        "",
        "Survey file of this node (CSV, JSONL or Parquet), an absolute path. Its columns tell "
        "whether it has the long form, comparisons or ratings (docs/data.md).",
    )
    group: str = setting(
        "", "Group to serve, several separated by `|`. Empty: the file's only group."
    )
    role: str = setting("train", "`train`, or `held-out`: evaluate and never train.")
    state_path: str = setting(
        "",
        "Folder for what the client keeps: own parameters, privacy ledgers, the key of noise, an "
        "absolute path. Only needed where a run asks for such, and with `max-epsilon`.",
    )
    encoder: str = setting(
        "", "The encoder's folder on this machine, or its hub id, instead of `encoder.name`."
    )
    privacy_unit: str = setting(
        "", "Refuse runs with another `privacy.unit`: `client`, `question` or `member`."
    )
    max_epsilon: float = setting(
        0.0,
        "Refuse runs whose `privacy.max-epsilon` is not set, or above this, and whatever would "
        "take a group above it over all runs together (ledger in `state-path`). 0: any.",
    )
    max_delta: float = setting(
        1e-5,
        "The delta at which `max-epsilon` counts: runs with a larger `privacy.delta` are refused.",
    )
    disclose_answers: bool = setting(
        False, "Let runs with `predictor.population-weight` send this node's answers."
    )
    allow_scoring: bool = setting(
        False,
        "Score whatever responses the server sends, from this node's answers "
        "(docs/reward_federated.md). Enough of them would tell the answers.",
    )

    def __post_init__(self) -> None:
        for name in ("data_path", "state_path"):
            path = getattr(self, name)
            require(
                not path or Path(path).is_absolute(),
                f"--node-config {name.replace('_', '-')}",
                path,
                "an absolute path: Flower starts clients in folders that nobody chooses",
            )
        require(
            bool(self.data_path), "--node-config data-path", self.data_path, "this node's survey"
        )
        require_choice("--node-config role", self.role, ROLES)
        require_choice("--node-config privacy-unit", self.privacy_unit, PRIVACY_UNITS)
        require(self.max_epsilon >= 0, "--node-config max-epsilon", self.max_epsilon, ">= 0")
        require(
            not self.max_epsilon or bool(self.privacy_unit),
            "--node-config max-epsilon",
            self.max_epsilon,
            "privacy-unit beside it: an epsilon says nothing without the unit it protects",
        )
        require(
            not self.max_epsilon or bool(self.state_path),
            "--node-config max-epsilon",
            self.max_epsilon,
            "state-path beside it: what was spent must be kept there",
        )
        require(
            0 < self.max_delta < 1, "--node-config max-delta", self.max_delta, "between 0 and 1"
        )

    @classmethod
    def of(cls, given: Mapping[str, Scalar]) -> "NodeConfig":
        """Parse a node config, as Flower hands it over.

        Raises:
            NodeConfigError: a key is unknown, or a value has the wrong type or is impossible.
        """
        try:
            return cls._parsed(given)
        except ConfigError as error:
            raise NodeConfigError(str(error)) from None

    @classmethod
    def _parsed(cls, given: Mapping[str, Scalar]) -> "NodeConfig":
        defaults = {item.name.replace("_", "-"): item.default for item in fields(cls)}
        values: dict[str, Scalar] = {}
        for key, value in given.items():
            if key not in defaults:
                raise ConfigError(
                    f"--node-config has an unknown key {key!r}.{suggest(key, defaults)} Expected "
                    f"some of {', '.join(defaults)}."
                )
            name = f"--node-config {key}"
            values[key.replace("-", "_")] = typed(name, value, defaults[key])  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]

    def apply(self, config: RunConfig) -> RunConfig:
        """Return a server's settings as this node carries them out: with its own data and places.

        No path of the server's is followed.

        Raises:
            ConfigError: the run wants other data, or promises less than the node insists on.
            NodeConfigError: it does not say which group of several is served.
            SurveyError: the node's file cannot be read, or has not the one group it needs.
        """
        require(
            config.data.source == NODES,
            "data.source",
            config.data.source,
            f"{NODES!r}: this node serves the file that its own config names",
        )
        self._require_promise(config)
        groups = " | ".join(self.groups(config))
        data = replace(
            config.data,
            path=self.data_path,
            train_groups=groups if self.role == "train" else "",
            held_out_groups=groups if self.role == "held-out" else "",
        )
        encoder = replace(
            config.encoder, name=self.encoder or config.encoder.name, cache_directory=""
        )
        applied = replace(
            config,
            run=replace(config.run, directory="", resume=""),
            score=ScoreConfig(),
            data=data,
            encoder=encoder,
            privacy=replace(config.privacy, noise_key_directory=self.state_path),
        )
        self._require_affordable(applied)
        return applied

    def groups(self, config: RunConfig) -> tuple[str, ...]:
        """Return the groups that this node serves."""
        if named := split_names(self.group):
            return named
        data = replace(config.data, path=self.data_path, train_groups="", held_out_groups="")
        found = tuple(load_asked(data, config.run.seed).answers)
        if len(found) > 1:
            raise NodeConfigError(
                f"--node-config group = '': the node's file holds {len(found)} groups, expected "
                "one. Say which to serve."
            )
        return found

    def _require_promise(self, config: RunConfig) -> None:
        privacy, unit = config.privacy, self.privacy_unit
        if config.predictor.population_weight and not self.disclose_answers:
            raise ConfigError(
                f"predictor.population-weight = {config.predictor.population_weight:g} sends "
                "answers to the server, which this node does not allow: expected 0. Its owner can "
                "allow it with --node-config disclose-answers=true."
            )
        if not unit:
            return
        require(
            privacy.unit == unit,
            "privacy.unit",
            privacy.unit,
            f"{unit!r}, which this node insists on",
        )
        if unit != "client":
            # Seeded noise is no protection from a server that knows the seed.
            require(
                privacy.secure_noise,
                "privacy.secure-noise",
                privacy.secure_noise,
                f"true, as this node insists on privacy.unit = {unit!r}",
            )
        if unit == "question":
            require(
                privacy.metrics != "full",
                "privacy.metrics",
                privacy.metrics,
                "'noisy' or 'off', as this node insists on privacy.unit = 'question'",
            )
        if self.max_epsilon:
            require(
                0 < privacy.max_epsilon <= self.max_epsilon,
                "privacy.max-epsilon",
                privacy.max_epsilon,
                f"above 0 and at most {self.max_epsilon:g}, which this node insists on",
            )
            require(
                privacy.delta <= self.max_delta,
                "privacy.delta",
                privacy.delta,
                f"at most {self.max_delta:g}, which this node insists on",
            )

    def _require_affordable(self, config: RunConfig) -> None:
        """Refuse a run of unit member that costs too much by itself, before it starts.

        What all runs together cost is checked where answers are read (`client_app.budget`).
        """
        if self.privacy_unit != "member" or not self.max_epsilon:
            return
        survey = load_asked(config.data, config.run.seed)
        cost = member_epsilon(config.privacy, [len(each) for each in survey.answers.values()])
        if cost > self.max_epsilon:
            raise ConfigError(
                f"privacy.noise-multiplier = {config.privacy.noise_multiplier:g} costs an epsilon "
                f"of {cost:.4g}: this node allows {self.max_epsilon:g}."
            )


def asked_only(node: NodeConfig) -> Mapping[str, int]:
    """Return the groups of a file with their number of questions, under any settings.

    Raises:
        SurveyError: the file is malformed, or lacks a group that the node is to serve.
        ConfigError: the node is to serve its only group, and there are several.
    """
    config = RunConfig.from_flat({"data.source": NODES})
    data = replace(config.data, path=node.data_path, train_groups=" | ".join(node.groups(config)))
    survey = load_asked(data, config.run.seed)
    return {name: len(answers) for name, answers in survey.answers.items()}


def node_help() -> dict[str, str]:
    """Return what each key of a node config means."""
    return {item.name.replace("_", "-"): item.metadata["help"] for item in fields(NodeConfig)}
