"""Plain data as JSON and arrays: what a checkpoint is made of, without pickle.

`pack` copies a value, so that it may change afterwards; `unpack` gives it back, bit for bit. Plain
are None, truth values, numbers, texts, bytes, NumPy's arrays, numbers and generators, PyTorch's
tensors on the CPU, Flower's records, and dicts, lists, tuples, sets and the like of them.
"""

import base64
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from numpy.typing import NDArray

from server_app.arrays import LocalArray

_KIND = "!"  # key of a JSON object that stands for something else than a dict with text keys
_MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    kind.__name__: kind for kind in (dict, OrderedDict, Counter, ConfigRecord, MetricRecord)
}
_SERIES: dict[str, Callable[[Iterable[Any]], Any]] = {
    kind.__name__: kind for kind in (tuple, set, frozenset)
}
_FACTORIES = {kind.__name__: kind for kind in (int, float, list, dict, set)}  # of a defaultdict
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_BFLOAT16 = "bfloat16"


class NotPlainError(TypeError):
    """A value is not plain data."""


@dataclass
class Packed:
    """A packed value.

    Attributes:
        tree: what JSON can hold; arrays are in it by name.
        arrays: name to array, C-contiguous.
    """

    tree: Any = None
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def pack(value: Any) -> Packed:
    """Return a copy of a value as JSON and arrays.

    Raises:
        NotPlainError: a part of it is no plain data; the message says where and of which type.
    """
    packed = Packed()
    packed.tree = _pack(value, "", packed.arrays)
    return packed


def is_plain(value: Any) -> bool:
    """Return whether a value can be packed."""
    try:
        _pack(value, "", None)
    except NotPlainError:
        return False
    return True


def unpack(packed: Packed) -> Any:
    """Return the value of which `pack` made this; its arrays are copies.

    Raises:
        ValueError: it was damaged, or packed by a later version.
    """
    return _unpack(packed.tree, packed.arrays)


def _pack(value: Any, path: str, arrays: dict[str, NDArray[Any]] | None) -> Any:
    """Pack a value; without `arrays` nothing is copied, which tells whether it can be packed."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {_KIND: "float", "is": str(value)}
    if kind is bytes:
        return {_KIND: "bytes", "is": base64.b64encode(value).decode()}
    if kind is np.ndarray or isinstance(value, np.generic):
        name = _put(np.asarray(value), path, arrays)
        return {_KIND: "array" if kind is np.ndarray else "number", "is": name}
    if kind in (torch.Tensor, torch.nn.Parameter):
        return _pack_tensor(value, path, arrays)
    if kind is ArrayRecord:
        items = [
            [name, _put(array.numpy(), f"{path}/{name}", arrays)]
            for name, array in (value.items() if arrays is not None else ())
        ]
        return {_KIND: kind.__name__, "is": items}
    if kind is np.random.Generator and type(value.bit_generator).__name__ in _BIT_GENERATORS:
        state = _pack(value.bit_generator.state, path, arrays)
        return {_KIND: "generator", "of": type(value.bit_generator).__name__, "is": state}
    if kind is random.Random:
        return {_KIND: "random", "is": _pack(value.getstate(), path, arrays)}
    if kind is dict and all(type(key) is str and key != _KIND for key in value):
        return {key: _pack(each, f"{path}/{key}", arrays) for key, each in value.items()}
    if kind.__name__ in _MAPPINGS or _is_defaultdict(value):
        pairs = [
            [_pack(key, path, arrays), _pack(each, f"{path}/{key}", arrays)]
            for key, each in value.items()
        ]
        made = {"makes": value.default_factory.__name__} if kind is defaultdict else {}
        return {_KIND: kind.__name__, "is": pairs, **made}
    if kind in (list, tuple, set, frozenset, deque):
        parts = [_pack(each, f"{path}/{index}", arrays) for index, each in enumerate(value)]
        if kind is list:
            return parts
        most = {"most": value.maxlen} if kind is deque else {}
        return {_KIND: kind.__name__, "is": parts, **most}
    where = f" (at {path})" if path else ""
    raise NotPlainError(f"a {kind.__module__}.{kind.__qualname__}{where}")


def _is_defaultdict(value: Any) -> bool:
    return type(value) is defaultdict and value.default_factory in _FACTORIES.values()


def _pack_tensor(
    tensor: torch.Tensor, path: str, arrays: dict[str, NDArray[Any]] | None
) -> dict[str, Any]:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise NotPlainError(f"a tensor on {tensor.device} (at {path})")
    detached = tensor.detach()
    dtype = str(tensor.dtype).rpartition(".")[2]
    if dtype == _BFLOAT16:  # NumPy has no such type
        detached = detached.view(torch.int16)
    name = _put(detached.numpy(), path, arrays)
    packed = {_KIND: "tensor", "is": name, "of": dtype, "grad": tensor.requires_grad}
    return packed | {"parameter": isinstance(tensor, torch.nn.Parameter)}


def _put(array: NDArray[Any], path: str, arrays: dict[str, NDArray[Any]] | None) -> str:
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise NotPlainError(f"an array of {array.dtype} (at {path})")
    if arrays is None:
        return ""
    name = f"{len(arrays)}{path}"
    arrays[name] = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return name


def _unpack(tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(tree, list):
        return [_unpack(each, arrays) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if _KIND not in tree:
        return {key: _unpack(each, arrays) for key, each in tree.items()}
    kind, content = tree[_KIND], tree["is"]
    if kind == "float":
        return float(content)
    if kind == "bytes":
        return base64.b64decode(content)
    if kind == "array":
        return arrays[content].copy()
    if kind == "number":
        return arrays[content][()]
    if kind == "tensor":
        return _unpack_tensor(tree, arrays)
    if kind == "ArrayRecord":
        record = ArrayRecord()  # built from a dict, it would serialise every entry
        for name, key in content:
            record[name] = _unpack_record_entry(arrays[key])
        return record
    if kind == "generator":
        if tree["of"] not in _BIT_GENERATORS:
            raise ValueError(f"unknown generator {tree['of']!r}")
        generator = np.random.Generator(getattr(np.random, tree["of"])())
        generator.bit_generator.state = _unpack(content, arrays)
        return generator
    if kind == "random":
        source = random.Random()
        source.setstate(_unpack(content, arrays))
        return source
    if kind in _MAPPINGS or kind == "defaultdict":
        mapping = {_unpack(key, arrays): _unpack(each, arrays) for key, each in content}
        if kind == "defaultdict":
            return defaultdict(_FACTORIES[tree["makes"]], mapping)
        return _MAPPINGS[kind](mapping)
    parts = (_unpack(each, arrays) for each in content)
    if kind == "deque":
        return deque(parts, maxlen=tree["most"])
    if kind in _SERIES:
        return _SERIES[kind](parts)
    raise ValueError(f"unknown kind of value {kind!r}")


def _unpack_tensor(tree: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> torch.Tensor:
    tensor = torch.from_numpy(arrays[tree["is"]].copy())
    if tree["of"] == _BFLOAT16:
        tensor = tensor.view(torch.bfloat16)
    if tree["parameter"]:
        return torch.nn.Parameter(tensor, requires_grad=tree["grad"])
    return tensor.requires_grad_(tree["grad"])


def _unpack_record_entry(array: NDArray[Any]) -> Array:
    return LocalArray(array.copy()) if array.dtype == np.float32 else Array(array)
