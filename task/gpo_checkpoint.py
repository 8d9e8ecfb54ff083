"""Reading checkpoints of GPO's public code (arXiv 2310.11523)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_GPO_NAMES = {
    r"^encoder\.": "",
    r"^predictor\.": "head.",
    r"\.self_attn\.out_proj\.": ".attention.output.",
    r"\.linear1\.": ".feedforward.0.",
    r"\.linear2\.": ".feedforward.2.",
    r"\.norm1\.": ".attention_norm.",
    r"\.norm2\.": ".feedforward_norm.",
}


def translate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `PreferencePredictor`'s parameters from GPO's.

    Names change; query, key and value come apart; the biases of values, which add the same to every
    output, are folded into the output's bias, and those of keys, which change nothing, are dropped.

    Raises:
        KeyError: a layer is incomplete.
        ValueError: a layer has a wrong shape.
    """
    translated: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        for theirs, ours in _GPO_NAMES.items():
            name = re.sub(theirs, ours, name)
        translated[name] = tensor
    head_weight, head_bias = translated.pop("head.2.weight"), translated.pop("head.2.bias")
    translated["mean.weight"], translated["log_std.weight"] = head_weight.chunk(2)
    translated["mean_offset"], translated["log_std.bias"] = head_bias.chunk(2)
    for name in [name for name in translated if name.endswith("in_proj_weight")]:
        layer = name.removesuffix("self_attn.in_proj_weight") + "attention."
        query, key, value = translated.pop(name).chunk(3)
        query_bias, _, value_bias = translated.pop(name.replace("weight", "bias")).chunk(3)
        translated[f"{layer}query.weight"] = query
        translated[f"{layer}query.bias"] = query_bias
        translated[f"{layer}key_value.weight"] = torch.cat((key, value))
        folded = translated[f"{layer}output.weight"] @ value_bias
        translated[f"{layer}output.bias"] = translated[f"{layer}output.bias"] + folded
    return translated


def count_keys(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many keys match a pattern as a whole."""
    return sum(re.fullmatch(pattern, key) is not None for key in state_dict)
