"""What a strategy remembers from round to round, saved and restored without its help.

A strategy may offer `state_dict` and `load_state_dict`; of any other one, all attributes that are
plain data (`checkpointing.plain_state`) are saved, and those that offer these two themselves.
Settings, functions and the like come back by making the strategy anew. An attribute of another kind
that has changed since the run began is an error: it would be lost. Not seen are changes of class
attributes, of variables outside the strategy, and of global random generators.
"""

import pickle
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, runtime_checkable

from flwr.serverapp.strategy import Strategy

from server_app.checkpointing.plain_state import NotPlainError, is_plain, pack
from task.errors import ConfigError

_UNCHANGING = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)


@runtime_checkable
class HasState(Protocol):
    """Says itself what it remembers, as PyTorch's modules and optimizers do."""

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain data."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take it over."""


class StrategyState:
    """Saves and restores a strategy.

    Args:
        strategy: as it is before the first round.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._name = type(strategy).__qualname__
        # How attributes that cannot be saved were at the start.
        self._first = {
            name: _mark(value) for name, value in _attributes(strategy) if not _is_saved(value)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what the strategy remembers, as plain data.

        Raises:
            ConfigError: an attribute that cannot be saved has changed.
        """
        if isinstance(self._strategy, HasState):
            return {"strategy": self._name, "own": self._of_part(self._name, self._strategy)}
        attributes: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        for name, value in _attributes(self._strategy):
            if isinstance(value, HasState):
                parts[name] = self._of_part(f"{self._name}.{name}", value)
            elif _is_saved(value):
                attributes[name] = value
            else:
                self._require_unchanged(name, value)
        return {"strategy": self._name, "attributes": attributes, "parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ConfigError: it is another strategy's.
        """
        if state["strategy"] != self._name:
            raise ConfigError(
                f"run.resume: the run's strategy is a {state['strategy']}, expected a {self._name}."
            )
        if "own" in state:
            assert isinstance(self._strategy, HasState)
            self._strategy.load_state_dict(state["own"])
            return
        for name, value in state["attributes"].items():
            setattr(self._strategy, name, value)
        for name, value in state["parts"].items():
            getattr(self._strategy, name).load_state_dict(value)

    def _of_part(self, name: str, part: HasState) -> dict[str, Any]:
        state = part.state_dict()
        if not is_plain(state):
            raise ConfigError(
                f"{name}.state_dict() cannot be saved in a checkpoint: it holds {_kind(state)}. "
                "Expected plain data (numbers, texts, arrays, records, dicts, lists)."
            )
        return state

    def _require_unchanged(self, name: str, value: Any) -> None:
        if name in self._first and self._first[name] == _mark(value):
            return
        raise ConfigError(
            f"{self._name}.{name} has changed and cannot be saved in a checkpoint: it is "
            f"{_kind(value)}. Give the strategy methods state_dict and load_state_dict, or that "
            "attribute's type, or keep plain data in it (numbers, texts, arrays, records, dicts, "
            "lists). checkpoint.every = 0 runs without checkpoints."
        )


def require_resumable(strategy: Strategy) -> None:
    """Raise a `ConfigError` for a strategy whose rounds cannot be started in the middle."""
    if type(strategy).start is not Strategy.start:
        raise ConfigError(
            f"run.resume: {type(strategy).__qualname__} has a `start` of its own, which counts "
            "rounds from 1. Expected a strategy that leaves `start` to Flower's Strategy."
        )


def _attributes(strategy: Strategy) -> Iterator[tuple[str, Any]]:
    slots = [name for kind in type(strategy).__mro__ for name in getattr(kind, "__slots__", ())]
    yield from vars(strategy).items()
    yield from ((name, getattr(strategy, name)) for name in slots if hasattr(strategy, name))


def _is_saved(value: Any) -> bool:
    if isinstance(value, _UNCHANGING):
        return False
    return isinstance(value, HasState) or is_plain(value)


def _mark(value: Any) -> tuple[int, bytes]:
    """Return what tells whether a value is still the same one, unchanged."""
    if isinstance(value, _UNCHANGING):
        return id(value), b""
    try:
        return id(value), pickle.dumps(value)
    except Exception:  # a stranger's object may raise anything; its identity is all there is
        return id(value), b""


def _kind(value: Any) -> str:
    try:
        pack(value)
    except NotPlainError as error:
        return str(error)
    return type(value).__qualname__
