"""Compressing a client's update before it is sent.

An update is one vector: a round's trained parameters minus those the server sent
(`task.parameters.Layout`). Suffixes: P entries of the vector, k entries that are sent, b blocks.
"""

import numpy as np
from numpy.typing import NDArray

from task.config import CompressionConfig

BLOCK = 256
"""Entries that share a scale of `int8`: 1/64 more bytes, and an outlier spoils its block alone."""

Compressed = dict[str, NDArray[np.generic]]


def compress(
    update_P: NDArray[np.float32], config: CompressionConfig, random: np.random.Generator
) -> Compressed:
    """Return an update as the arrays that are sent.

    - `bfloat16`: rounded to the nearest, ties to even.
    - `int8`: each block is scaled by its largest magnitude / 127 and rounded up or down at random
      with the probabilities that make the result unbiased (QSGD, arXiv 1610.02132, section 3.1).
    - `top-k`: the k entries of the largest magnitude, and a bitmap of where they are.

    Raises:
        ValueError: there is nothing to compress (`none`), or an entry is not finite.
    """
    if not np.isfinite(update_P).all():
        raise ValueError("The update is not finite: it cannot be compressed.")
    if config.name == "bfloat16":
        return {"bfloat16": _to_bfloat16(update_P)}
    if config.name == "int8":
        return _to_int8(update_P, random)
    if config.name == "top-k":
        return _largest(update_P, max(1, round(config.top_k_fraction * len(update_P))))
    raise ValueError(f"compression.name = {config.name!r} compresses nothing.")


def decompress(compressed: Compressed, size: int) -> NDArray[np.float32]:
    """Return the (P,) update that the arrays stand for; how it was compressed shows in their names.

    Raises:
        ValueError: they are not an update of this size.
    """
    names = set(compressed)
    if names == {"bfloat16"}:
        return _decode("bfloat16", compressed, size)
    if names == {"int8", "scale"}:
        return _decode("int8", compressed, size)
    if names == {"values", "where"}:
        return _decode("top-k", compressed, size)
    raise ValueError(f"arrays {sorted(names)} are no compressed update")


def _to_bfloat16(values_P: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits_P = np.ascontiguousarray(values_P).view(np.uint32)
    # Add just under half a unit, and one more where the last kept bit is odd: ties go to even.
    rounded_P = bits_P + 0x7FFF + ((bits_P >> 16) & 1)
    return (rounded_P >> 16).astype(np.uint16)


def _to_int8(values_P: NDArray[np.float32], random: np.random.Generator) -> Compressed:
    blocks_bB = _blocks(values_P)
    scale_b = np.abs(blocks_bB).max(axis=1) / np.float32(127)
    divisor_b = np.where(scale_b > 0, scale_b, np.float32(1))
    noise_bB = random.random(blocks_bB.shape, dtype=np.float32)
    rounded_bB = np.floor(blocks_bB / divisor_b[:, None] + noise_bB)
    # The largest entry lies on 127 itself, where rounding of the division may push it over.
    int8_P = np.clip(rounded_bB, -127, 127).astype(np.int8).reshape(-1)[: len(values_P)]
    return {"int8": int8_P, "scale": scale_b.astype(np.float32)}


def _largest(values_P: NDArray[np.float32], k: int) -> Compressed:
    chosen = np.argpartition(np.abs(values_P), len(values_P) - k)[len(values_P) - k :]
    where_P = np.zeros(len(values_P), dtype=bool)
    where_P[chosen] = True
    return {"values": values_P[where_P], "where": np.packbits(where_P)}


def _decode(name: str, compressed: Compressed, size: int) -> NDArray[np.float32]:
    """Decode after checking types and sizes: the arrays come from a client."""
    number_of_blocks = -(-size // BLOCK)
    expected: dict[str, dict[str, tuple[type[np.generic], int | None]]] = {
        "bfloat16": {"bfloat16": (np.uint16, size)},
        "int8": {"int8": (np.int8, size), "scale": (np.float32, number_of_blocks)},
        "top-k": {"values": (np.float32, None), "where": (np.uint8, -(-size // 8))},
    }
    for key, (dtype, length) in expected[name].items():
        array = compressed[key]
        if array.dtype != dtype or array.ndim != 1 or length not in (None, len(array)):
            raise ValueError(
                f"array {key!r} of a compressed update is {array.dtype} {array.shape}, expected "
                f"{np.dtype(dtype)} ({'k' if length is None else length},)"
            )
    update_P = np.zeros(size, dtype=np.float32)
    if name == "bfloat16":
        update_P[:] = (compressed["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    elif name == "int8":
        scale_b = compressed["scale"].astype(np.float32)
        update_P[:] = compressed["int8"].astype(np.float32) * np.repeat(scale_b, BLOCK)[:size]
    else:
        where_P = np.unpackbits(compressed["where"].astype(np.uint8))[:size].astype(bool)
        if int(where_P.sum()) != len(compressed["values"]):
            raise ValueError("a compressed update has another number of values than of places")
        update_P[where_P] = compressed["values"]
    return update_P


def _blocks(values_P: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.zeros(-(-len(values_P) // BLOCK) * BLOCK, dtype=np.float32)
    padded[: len(values_P)] = values_P
    return padded.reshape(-1, BLOCK)
