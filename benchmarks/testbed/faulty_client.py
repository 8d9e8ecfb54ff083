"""A ClientApp that misbehaves when told to: the real one, wrapped. Copied into a copy of the app.

A file `fault` beside the node's data says how, for the next message to train: `raise`, `hang`,
`die`, `nan` or `scale`. It is renamed to `fault.done` first, so it acts once.
"""

import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from client_app.app import app as real
from client_app.mods import limit_time, report_errors
from task import records

HANG_SECONDS = 3600.0
SCALE = 100.0

app = ClientApp(mods=[report_errors, limit_time])  # the real one's: it fails as its handlers would


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """As the real one."""
    return real(message, context)


@app.query("score")
def score(message: Message, context: Context) -> Message:
    """As the real one."""
    return real(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """As the real one."""
    return real(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as the real one, or go wrong."""
    fault = _take_fault(Path(str(context.node_config["data-path"])).with_name("fault"))
    if fault == "raise":
        raise RuntimeError("a fault that a test has asked for")
    if fault == "die":
        os._exit(1)
    if fault == "hang":
        time.sleep(HANG_SECONDS)
    reply = real(message, context)
    if fault in ("nan", "scale"):
        sent = message.content.array_records[records.ARRAYS]
        arrays = reply.content.array_records[records.ARRAYS]
        reply.content[records.ARRAYS] = ArrayRecord(
            {name: _spoilt(fault, sent[name].numpy(), arrays[name].numpy()) for name in arrays}
        )
    return reply


def _spoilt(fault: str, before: np.ndarray, after: np.ndarray) -> Array:
    if fault == "nan":
        return Array(np.full_like(after, np.nan))
    return Array((before + SCALE * (after - before)).astype(after.dtype))


def _take_fault(file: Path) -> str:
    """Return what the file says and rename it; empty where there is none."""
    if not file.exists():
        return ""
    fault = file.read_text().strip()
    file.rename(file.with_suffix(".done"))
    return fault
