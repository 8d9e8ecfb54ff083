"""Making a strategy from its class and options, and finding a user's own class."""

import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy

from task.config import StrategyConfig
from task.errors import ConfigError, suggest
from task.options import dashed, parse_options
from task.paths import project_folder
from task.settings import Scalar

_SIMPLE = (bool, int, float, str)
_ANYTHING = (Any, object, inspect.Parameter.empty)


def load_own(name: str) -> Callable[..., Strategy]:
    """Import a strategy class, or a function that returns a strategy.

    Args:
        name: `module:Class`, the module importable or in the app's folder, or `file.py:Class`.

    Raises:
        ConfigError: it cannot be found or imported.
    """
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise ConfigError(
            f"strategy.name = {name!r}: expected module:Class or path/to/file.py:Class."
        )
    module = _from_file(name, Path(source)) if source.endswith(".py") else _by_name(name, source)
    if not hasattr(module, attribute):
        found = [each for each, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError(
            f"strategy.name = {name!r}: {source} has no {attribute}.{suggest(attribute, found)}"
        )
    factory: Callable[..., Strategy] = getattr(module, attribute)
    if not callable(factory):
        raise ConfigError(f"strategy.name = {name!r}: expected a class, {attribute} is none.")
    return factory


def source_file(name: str) -> Path | None:
    """Return the file of a user's own strategy, if it can be told; None for the app's rules."""
    source = name.rpartition(":")[0]
    if not source or source.endswith(".py"):
        return Path(source) if source else None
    spec = find_spec(source)
    return Path(spec.origin) if spec and spec.origin else None


def build(
    factory: Callable[..., Strategy],
    config: StrategyConfig,
    app_settings: Mapping[str, Scalar],
) -> Strategy:
    """Call a strategy's constructor.

    Args:
        factory: the class.
        config: its name and options.
        app_settings: what the app decides, for a constructor that takes it; no options.

    Raises:
        ConfigError: the constructor does not take these options, or refuses them.
    """
    try:
        parameters, takes_more = _parameters(factory)
    except (TypeError, ValueError) as error:  # a constructor that Python cannot look into
        raise ConfigError(
            f"strategy.name = {config.name!r}: its constructor's arguments cannot be told: {error}"
        ) from error
    settings = {k: v for k, v in app_settings.items() if k in parameters or takes_more}
    takes = {name: parameter for name, parameter in parameters.items() if name not in app_settings}
    given: dict[str, Scalar] = {}
    for option, value in parse_options(config.options).items():
        name = option.replace("-", "_")
        if name not in takes:
            raise ConfigError(
                f"strategy.options.{option} = {value!r}: {config.name} does not take it. "
                f"{_listed(config.name, takes)}{suggest(option, map(dashed, takes))}"
            )
        given[name] = _typed(option, value, takes[name].annotation)
    settings |= given
    missing = [n for n, p in takes.items() if p.default is p.empty and n not in settings]
    if missing:
        raise ConfigError(
            f"strategy.name = {config.name!r}: expected strategy.options.{dashed(missing[0])}. "
            f"{_listed(config.name, takes)}"
        )
    try:
        strategy = factory(**settings)
    except Exception as error:  # it may be a stranger's code, and raise anything
        raise ConfigError(
            f"strategy.name = {config.name!r}, strategy.options = {config.options!r}: {error}"
        ) from error
    if not isinstance(strategy, Strategy):
        raise ConfigError(
            f"strategy.name = {config.name!r}: expected a subclass of "
            f"flwr.serverapp.strategy.Strategy, got a {type(strategy).__name__}."
        )
    return strategy


# Names of records and functions: they must be what the ClientApp and the population grid expect.
_OF_FLOWER = (
    "weighted_by_key",
    "arrayrecord_key",
    "configrecord_key",
    "train_loss_key",
    "train_metrics_aggr_fn",
    "evaluate_metrics_aggr_fn",
    "eta_l",  # the clients' learning rate, which Flower prints and does not use
)


def _parameters(factory: Callable[..., Strategy]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters of a constructor, and whether it takes others too.

    Where a constructor passes the rest on to its base class, the base's count as well.
    """
    found: dict[str, inspect.Parameter] = {}
    constructors: list[Callable[..., Any]] = [factory]
    if inspect.isclass(factory):
        constructors = [each.__init__ for each in factory.__mro__ if _has_own(each)]  # type: ignore[misc]
    takes_more = False
    for constructor in constructors:
        signature = inspect.signature(constructor, eval_str=False)
        takes_more = False
        hidden = ("self", *(_OF_FLOWER if _is_flowers(constructor) else ()))
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                takes_more = True
            elif parameter.kind is not parameter.VAR_POSITIONAL and name not in hidden:
                hints = _hints(constructor)
                found.setdefault(
                    name, parameter.replace(annotation=hints.get(name, parameter.annotation))
                )
        if not takes_more:
            return found, False
    return found, takes_more


def _has_own(kind: type) -> bool:
    return kind is not object and "__init__" in vars(kind)


def _is_flowers(constructor: Callable[..., Any]) -> bool:
    return str(getattr(constructor, "__module__", "")).startswith("flwr.")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # an annotation that only a type checker understands
        return {}


def _typed(option: str, value: Scalar, annotation: Any) -> Scalar:
    """Check an option against its annotation, if that is a simple type or a union of some."""
    kinds = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if any(kind in _ANYTHING or isinstance(kind, str) for kind in kinds):
        return value  # a text is an annotation that only a type checker understands
    simple = [kind for kind in kinds if kind in _SIMPLE]
    if not simple:
        raise ConfigError(
            f"strategy.options.{option} = {value!r}: expected a {annotation}, which an option "
            "cannot be. Options are numbers, texts or true and false."
        )
    if type(value) in simple:
        return value
    if float in simple and type(value) is int:
        return float(value)
    if str in simple and not isinstance(value, bool):
        return str(value)
    expected = " or ".join(kind.__name__ for kind in simple)
    raise ConfigError(f"strategy.options.{option} = {value!r}: expected {expected}.")


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _listed(name: str, takes: Mapping[str, inspect.Parameter]) -> str:
    if not takes:
        return f"{name} takes no options."
    shown = [
        dashed(each)
        if parameter.default is parameter.empty
        else f"{dashed(each)}={parameter.default}"
        for each, parameter in takes.items()
    ]
    return f"{name} takes: {', '.join(shown)}."


def _from_file(name: str, file: Path) -> types.ModuleType:
    if not file.is_file():
        raise ConfigError(f"strategy.name = {name!r}: there is no file {file}.")
    spec = spec_from_file_location(f"own_strategy_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # a file that ends with .py has both
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is a stranger's code, and may raise anything
        raise ConfigError(
            f"strategy.name = {name!r}: importing it raised {type(error).__name__}: {error}"
        ) from error
    return module


def _by_name(name: str, module: str) -> types.ModuleType:
    folder = str(project_folder())
    if folder not in sys.path:  # `flwr run` has it there, a console script has not
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"strategy.name = {name!r}: importing it raised ModuleNotFoundError: {error}"
            ) from error
        raise ConfigError(
            f"strategy.name = {name!r}: there is no module {module}. Expected one that is "
            f"installed or lies in {folder}; or name its file: path/to/{module}.py:Class."
        ) from None
    except Exception as error:  # it is a stranger's code, and may raise anything
        raise ConfigError(
            f"strategy.name = {name!r}: importing it raised {type(error).__name__}: {error}"
        ) from error
