"""Names and layout of Google's .npz files, to this project's and back: kernels [in, out], one for each attention head.

big_vision numbers the parts of a block otherwise than the code of before, and its class token has no position embedding.
"""

import math
import re

import numpy as np

from ..errors import UserError
from ..weights.loading import SourceWeights
from ..weights.naming import fuse, renamed

# Google's flax names outside the attention; a kernel is [in, out] as here
_GOOGLE_NAMES = [
    (r"cls", "cls_token"),
    (r"embedding/kernel", "patch_embed.proj.weight"),
    (r"embedding/bias", "patch_embed.proj.bias"),
    (r"Transformer/posembed_input/pos_embedding", "pos_embed"),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_0/scale", r"blocks.\1.norm1.weight"),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_0/bias", r"blocks.\1.norm1.bias"),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_2/scale", r"blocks.\1.norm2.weight"),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_2/bias", r"blocks.\1.norm2.bias"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_3/Dense_0/kernel", r"blocks.\1.mlp.fc1.weight"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_3/Dense_0/bias", r"blocks.\1.mlp.fc1.bias"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_3/Dense_1/kernel", r"blocks.\1.mlp.fc2.weight"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_3/Dense_1/bias", r"blocks.\1.mlp.fc2.bias"),
    (r"Transformer/encoder_norm/scale", "norm.weight"),
    (r"Transformer/encoder_norm/bias", "norm.bias"),
    (r"pre_logits/kernel", "pre_logits.fc.weight"),
    (r"pre_logits/bias", "pre_logits.fc.bias"),
    (r"head/kernel", "head.weight"),
    (r"head/bias", "head.bias"),
]
_BIG_VISION = {
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
}
_GOOGLE_ATTENTION = re.compile(
    r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/(query|key|value|out)/(kernel|bias)"
)


def from_google(arrays, sha256):
    """SourceWeights of {name: array} under Google's names."""
    is_big_vision = any("/MlpBlock_0/" in name for name in arrays)
    weights, parts = SourceWeights("big_vision .npz" if is_big_vision else "Google .npz", sha256), {}
    for source, array in arrays.items():
        known = "/".join(_BIG_VISION.get(part, part) for part in source.split("/")) if is_big_vision else source
        if match := _GOOGLE_ATTENTION.fullmatch(known):
            block, part, kind = match.groups()
            here = "weight" if kind == "kernel" else "bias"
            if part == "query" and kind == "kernel":
                weights.heads = array.shape[1]
            if part != "out":  # kernel [D, H, D/H], bias [H, D/H]
                flat = array.reshape(array.shape[0], -1) if kind == "kernel" else array.reshape(-1)
                parts.setdefault(f"blocks.{block}.attn.qkv.{here}", {})[part] = flat
            elif kind == "kernel":  # [H, D/H, D]
                weights.add(f"blocks.{block}.attn.proj.weight", array.reshape(-1, array.shape[-1]), "reshaped", source)
            else:
                weights.add(f"blocks.{block}.attn.proj.bias", array, "loaded", source)
        elif known in ("pos_embedding", "Transformer/pos_embedding"):
            _add_position_embedding(weights, array, source)
        elif (name := renamed(_GOOGLE_NAMES, known)) == "patch_embed.proj.weight":
            weights.add(name, array.transpose(3, 2, 0, 1), "transposed", source)
        elif name:
            weights.add(name, array, "loaded", source)
        else:
            weights.unknown.append(source)
    fuse(weights, parts)
    return weights


def _add_position_embedding(weights, array, source):
    if array.ndim == 3 and math.isqrt(array.shape[1]) ** 2 == array.shape[1]:  # of a grid alone
        array = np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)
        weights.add("pos_embed", array, "reshaped", f"{source}, zeros for the class token before it,")
    else:
        weights.add("pos_embed", array, "loaded", source)


def to_google(tensors, heads):
    """{name: array} in the layout of Google's .npz files, with one kernel per head.

    Raises:
        UserError: a tensor that Google's files do not have, or a width that the heads do not divide.
    """
    width = tensors["cls_token"].shape[-1]
    if width % heads:
        raise UserError(f"{heads} heads do not divide the width {width}: give another --heads")
    arrays = {}
    for name, array in tensors.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)", name):
            block, part, kind = match.groups()
            prefix = f"Transformer/encoderblock_{block}/MultiHeadDotProductAttention_1"
            there = "kernel" if kind == "weight" else "bias"
            if part == "qkv":
                for third, values in zip(("query", "key", "value"), np.split(array, 3, axis=-1)):
                    arrays[f"{prefix}/{third}/{there}"] = values.reshape(*values.shape[:-1], heads, -1)
            else:
                arrays[f"{prefix}/out/{there}"] = array.reshape(heads, -1, array.shape[-1]) if kind == "weight" else array
        elif name == "patch_embed.proj.weight":
            arrays["embedding/kernel"] = array.transpose(2, 3, 1, 0)
        else:
            arrays[_google_name(name)] = array
    return arrays


def _google_name(name):
    """The inverse of _GOOGLE_NAMES."""
    for google, here in _GOOGLE_NAMES:
        pattern = re.escape(here).replace(r"\\1", r"(\d+)")
        if match := re.fullmatch(pattern, name):
            return google.replace(r"(\d+)", match.group(1)) if match.groups() else google
    raise UserError(f"{name} has no place in Google's .npz layout")
