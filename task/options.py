"""A strategy's options as one text, since Flower's run config has neither tables nor unknown keys.

`proximal-mu=0.01 name='a b'`: names and TOML values, separated by spaces.
"""

import json
import math
import shlex
import tomllib
from collections.abc import Mapping

from task.errors import ConfigError

Value = bool | int | float | str

KEY = "strategy.options"


def parse_options(text: str) -> dict[str, Value]:
    """Return options by their names, which are written with dashes.

    Raises:
        ConfigError: the text is not a list of `name=value`, or names an option twice.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{KEY} = {text!r}: {error}. Expected name=value pairs.") from None
    options: dict[str, Value] = {}
    for word in words:
        name, separator, value = word.partition("=")
        name = dashed(name)
        if not separator or not name:
            raise ConfigError(
                f"{KEY} = {text!r}: expected name=value pairs separated by spaces, got {word!r}."
            )
        if name in options:
            raise ConfigError(f"{KEY} = {text!r}: {name} is given twice.")
        options[name] = _parsed(value)
    return options


def format_options(options: Mapping[str, Value]) -> str:
    """Return options as one text, sorted by name."""
    words = [f"{dashed(name)}={_written(value)}" for name, value in options.items()]
    return " ".join(map(shlex.quote, sorted(words)))


def fold_options(flat: Mapping[str, Value]) -> dict[str, Value]:
    """Return a flat config with keys `strategy.options.<name>` put into `strategy.options`.

    Raises:
        ConfigError: see `parse_options`; or an option is not finite.
    """
    prefix = f"{KEY}."
    dotted = {key.removeprefix(prefix): flat[key] for key in flat if key.startswith(prefix)}
    folded = {key: value for key, value in flat.items() if not key.startswith(prefix)}
    text = folded.get(KEY, "")
    if isinstance(text, str) and (dotted or text):
        options = parse_options(text) | {dashed(name): value for name, value in dotted.items()}
        for name, value in options.items():
            if not isinstance(value, bool | int | float | str):
                raise ConfigError(f"{KEY}.{name} = {value}: expected a number, a text or a bool.")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{KEY}.{name} = {value}: expected a finite number.")
        folded[KEY] = format_options(options)
    return folded


def dashed(name: str) -> str:
    """Return a name as it is written in configs."""
    return name.strip().replace("_", "-")


def _written(value: Value) -> str:
    """Return what `_parsed` reads as this value; a text is quoted where it must be."""
    if isinstance(value, str) and _parsed(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _parsed(value: str) -> Value:
    """Return a TOML value; what is none is a text."""
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value
    return parsed if isinstance(parsed, bool | int | float | str) else value
