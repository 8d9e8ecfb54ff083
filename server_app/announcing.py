"""What the server's process says on the standard output: lines for people, or JSON per event."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from task.config import LogConfig

EVENT, FIELDS = "event", "fields"
_LOGGER = logging.getLogger("pluralllm.server")


def announce(
    event: str,
    text: str = "",
    fields: Mapping[str, Any] | None = None,
    level: Literal["info", "warning", "error"] = "info",
) -> None:
    """Say that something happened.

    Args:
        event: its name, for `log.json`.
        text: what people read, as it is to be printed; empty: JSON readers alone are told.
        fields: what `log.json` says of it; texts, numbers, None, and lists and dicts of those.
        level: how bad it is, for `log.json`.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    _LOGGER.log(number, "%s", text, extra={EVENT: event, FIELDS: dict(fields or {})})


def announce_as(config: LogConfig) -> None:
    """Print from now on as a run's settings say."""
    _HANDLER.as_json = config.json


class _Printer(logging.Handler):
    """Prints to what is the standard output at the moment, and lets errors of that through."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.as_json:
            print(_to_json(record), flush=True)
        elif text := record.getMessage():
            print(text, flush=True)


def _to_json(record: logging.LogRecord) -> str:
    line = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        EVENT: getattr(record, EVENT),
        FIELDS: getattr(record, FIELDS),
    }
    return json.dumps(line, allow_nan=False)


_HANDLER = _Printer()
_LOGGER.addHandler(_HANDLER)
_LOGGER.setLevel(logging.INFO)
_LOGGER.propagate = False
