"""How a setting is declared and checked; the settings themselves are in `task.config`."""

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
