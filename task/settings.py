"""How a setting is declared and checked; the settings themselves are in `task.config`."""

import math
from dataclasses import field
from typing import Any

from task.errors import ConfigError, suggest

Scalar = bool | int | float | str


def setting(default: Scalar, help: str) -> Any:  # noqa: A002 (argparse's and typer's word)
    """Declare a setting with its default and what it means."""
    return field(default=default, metadata={"help": help})


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Raise a `ConfigError` that names key, value and what was expected, unless `ok`."""
    if not ok:
        raise ConfigError(f"{key} = {value!r}: expected {expected}.")


def require_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `ConfigError` unless the value is one of the choices."""
    if value not in choices:
        raise ConfigError(
            f"{key} = {value!r}: expected one of {', '.join(choices)}.{suggest(value, choices)}"
        )


def typed(key: str, value: object, default: Scalar) -> Scalar:
    """Return a value in the type of its default; an integer may stand for a float.

    Raises:
        ConfigError: it has another type, or is not finite.
    """
    expected = type(default)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if expected is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a group or folder may be called 2024
    if type(value) is not expected:
        names = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
        raise ConfigError(f"{key} = {value!r}: expected {names[expected]}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} = {value!r}: expected a finite number.")
    return value
