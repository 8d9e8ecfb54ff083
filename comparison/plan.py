"""What a comparison computes: methods x seeds x folds, each a cell known by its settings."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from comparison.privacy import require_exact_scores, without_federation
from server_app.privacy import require_private_strategy
from server_app.strategies import require_strategy
from server_app.strategies.loading import source_file
from task.clients import group_of, members
from task.config import RunConfig, StrategyConfig, parse_override
from task.errors import ConfigError, suggest
from task.features import load_features, load_fingerprint, load_roles
from task.seeding import generator

FEDERATED = "federated"
CENTRALIZED_ROUNDS, CENTRALIZED_STEPS = "centralized-rounds", "centralized-steps"
LOCAL, LINEAR_PROBE, MLP_PROBE = "local", "linear-probe", "mlp-probe"
POPULATION_MEAN, UNIFORM = "population-mean", "uniform"
OTHER_METHODS = (
    CENTRALIZED_ROUNDS,
    CENTRALIZED_STEPS,
    LOCAL,
    LINEAR_PROBE,
    MLP_PROBE,
    POPULATION_MEAN,
    UNIFORM,
)
FEW_SHOT = (0, 1, 2, 5, 10, 20, 50)

CELL_VERSION = 2
"""To be raised when cells would come out differently: cells of other versions are not reused."""

# What tells where and how fast a cell is computed, and where its files are, but not what comes out.
_WITHOUT_INFLUENCE = (
    "run.directory",
    "data.path",  # the file's content counts instead
    "encoder.name",  # the fingerprint does
    "encoder.revision",
    "encoder.batch-size",
    "encoder.device",
    "encoder.cache-directory",
    "engine.name",
    "engine.num-workers",
    "engine.num-threads",
    "engine.device",
    "strategy.name",  # is part of the method, and its file's content counts
    "checkpoint.",
    "nodes.",
    "log.",
)

_OF_A_STRATEGY = ("strategy.", "train.", "predictor.", "compression.")
"""What a federated method may change besides its strategy."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method with one seed on one fold.

    Attributes:
        method: `federated <strategy> [key=value ...]` or one of `OTHER_METHODS`.
        fold: which of the folds is held out; 0 without folds.
        config: the settings, with seed, groups and the strategy's overrides in place.
        few_shot: context sizes of the few-shot curve.
    """

    method: str
    fold: int
    config: RunConfig
    few_shot: tuple[int, ...]

    @property
    def label(self) -> str:
        """What messages call the cell."""
        return f"{self.method}, seed {self.config.run.seed}, fold {self.fold}"

    @cached_property
    def key(self) -> str:
        """Hash of everything that the result depends on."""
        settings: dict[str, Any] = {
            key: value
            for key, value in self.config.to_flat().items()
            if not key.startswith(_WITHOUT_INFLUENCE)
            and (key, value) != ("data.clients", "groups")  # cells from before the key are the same
        }
        content = {
            "version": CELL_VERSION,
            "method": self.method,
            "few_shot": self.few_shot,
            "settings": settings,
            "data": _data_digest(self.config.data.path),
            "encoder": load_fingerprint(self.config.encoder),
            "strategy": _strategy_digest(self.config.strategy.name),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison as it is asked for.

    Attributes:
        config: settings that all cells share; `run.seed` is the first seed.
        methods: see `Cell.method`.
        num_seeds: how many seeds, counted up from `run.seed`.
        folds: how often the groups held out rotate; 0: the config's own split.
        few_shot: context sizes of the few-shot curve; empty: none.
    """

    config: RunConfig
    methods: tuple[str, ...]
    num_seeds: int
    folds: int = 0
    few_shot: tuple[int, ...] = FEW_SHOT

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        first = self.config.run.seed
        return list(range(first, first + self.num_seeds))

    def cells(self) -> list[Cell]:
        """Return all cells, checked: whatever can be wrong is, before anything is computed.

        Raises:
            UserError: a method, strategy, fold or context size is impossible, or the survey cannot
                be used.
        """
        self._check()
        cells = []
        for seed in self.seeds:
            seeded = replace(self.config, run=replace(self.config.run, seed=seed, directory=""))
            for fold, config in enumerate(self._folds(seeded)):
                for method in self.methods:
                    chosen = _with_strategy(method, config)
                    load_roles(chosen.data, chosen.evaluation, seed)
                    cells.append(
                        Cell(method=method, fold=fold, config=chosen, few_shot=self.few_shot)
                    )
        load_features(self.config.data, self.config.encoder, self.config.run.seed)
        return cells

    def to_json(self) -> dict[str, Any]:
        """Return the plan for `comparison.json`."""
        return {
            "settings": self.config.to_flat(),
            "methods": list(self.methods),
            "seeds": self.seeds,
            "folds": self.folds,
            "few_shot": list(self.few_shot),
        }

    def _check(self) -> None:
        require_exact_scores(self.config)
        if self.num_seeds < 1:
            raise ConfigError(f"--seeds {self.num_seeds}: expected at least 1.")
        if not self.methods:
            raise ConfigError("Nothing to compare: name at least one method or strategy.")
        for method in self.methods:
            if method.split()[0] != FEDERATED and method not in OTHER_METHODS:
                known = (FEDERATED, *OTHER_METHODS)
                raise ConfigError(
                    f"Method {method!r}: expected one of {', '.join(known)}."
                    f"{suggest(method, known)}"
                )
        if twice := [method for method in self.methods if self.methods.count(method) > 1]:
            raise ConfigError(f"Method {twice[0]!r} is named twice: expected every method once.")
        if LOCAL in self.methods and self.config.evaluation.num_context < 2:
            raise ConfigError(
                "evaluation.num-context = 1: method 'local' needs at least 2, as a held-out group "
                "trains on its context alone."
            )
        pooled = {CENTRALIZED_ROUNDS, CENTRALIZED_STEPS, MLP_PROBE} & set(self.methods)
        if self.config.train.clients_per_round and pooled:
            raise ConfigError(
                f"train.clients-per-round = {self.config.train.clients_per_round}: expected 0 (all "
                f"clients) beside {', '.join(sorted(pooled))}, which train on every group in every "
                "step: the numbers of episodes would differ."
            )
        if any(size < 0 for size in self.few_shot):
            raise ConfigError(f"--few-shot {list(self.few_shot)}: expected numbers >= 0.")

    def _folds(self, config: RunConfig) -> Iterable[RunConfig]:
        """Return the config of each fold: its groups held out, all others of the run training.

        The groups are named in it, so that they are the same for all seeds.
        """
        seed, data = self.config.run.seed, self.config.data
        roles = load_roles(data, self.config.evaluation, seed)
        if named := [group for group in roles if "|" in group]:
            raise ConfigError(
                f"Group {named[0]!r}: expected names without '|', which separates groups in "
                "data.train-groups. Rename it in the survey."
            )
        groups = list(members(roles, data))
        if not self.folds:
            if data.by_user and (data.train_group_names or data.held_out_group_names):
                return [config]  # single users may have roles of their own
            held_out = {group_of(name, data) for name, role in roles.items() if role == "held-out"}
            return [_holding_out(config, groups, held_out)]
        if not 2 <= self.folds <= len(groups):
            raise ConfigError(
                f"--folds {self.folds}: expected 2 to {len(groups)}, the number of groups in the "
                "comparison: every fold holds at least one of them out, and trains on the others."
            )
        order = generator(seed, "folds").permutation(len(groups))
        parts = [order[fold :: self.folds] for fold in range(self.folds)]
        return [_holding_out(config, groups, {groups[i] for i in part}) for part in parts]


def differs_in_strategy_alone(method: str) -> bool:
    """Return whether a method is federated and shares predictor and training with all others."""
    kind, *words = method.split()
    return kind == FEDERATED and all(
        word.startswith(("strategy.", "compression.")) for word in words[1:]
    )


def federated(strategies: Sequence[str]) -> tuple[str, ...]:
    """Return the methods of some strategies, each a name and overrides."""
    return tuple(" ".join([FEDERATED, *strategy.split()]) for strategy in strategies)


def _with_strategy(method: str, config: RunConfig) -> RunConfig:
    """Apply a federated method's strategy and overrides to a config."""
    kind, *words = method.split()
    if kind != FEDERATED:
        return replace(without_federation(config), strategy=StrategyConfig())  # has no influence
    if not words:
        raise ConfigError(f"Method {method!r}: expected '{FEDERATED} <strategy> [key=value ...]'.")
    overrides = dict(parse_override(word) for word in words[1:])
    for key in overrides:
        if not key.startswith(_OF_A_STRATEGY) or key == "strategy.name":
            raise ConfigError(
                f"Method {method!r} changes {key!r}: expected a key below "
                f"{', '.join(_OF_A_STRATEGY)}. All methods share the survey, the encoder, the "
                "evaluation and the seeds."
            )
    named = replace(config, strategy=replace(config.strategy, name=words[0], options=""))
    named = named.with_absolute_paths(Path.cwd())
    if named.strategy.name == config.strategy.name:  # or the options are another strategy's
        named = config
    chosen = RunConfig.from_flat({**named.to_flat(), **overrides})
    require_private_strategy(require_strategy(chosen), chosen)
    return chosen


def _holding_out(config: RunConfig, groups: Sequence[str], held_out: set[str]) -> RunConfig:
    train = [group for group in groups if group not in held_out]
    data = replace(
        config.data,
        train_groups=" | ".join(train),
        held_out_groups=" | ".join(sorted(held_out)),
    )
    return replace(config, data=data)


def _strategy_digest(name: str) -> str:
    """Return the digest of a strategy's file, if it is a user's own."""
    file = source_file(name)
    return _file_digest(str(file)) if file else ""


def _data_digest(path: str) -> str:
    """Return the digest of a survey's file or folder; a hub id stands for its data set."""
    if Path(path).is_dir() and path:
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        digests = [(str(file.relative_to(path)), _file_digest(str(file))) for file in files]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return _file_digest(path) if Path(path).is_file() else path


@lru_cache
def _file_digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
