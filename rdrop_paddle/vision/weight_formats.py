"""Reading released weights: recognise the format by content and give tensors this project's names and layout.

The layout is Paddle's: convolutions OIHW, linear layers [in, out], query, key and value fused in this order.
"""

import re
from dataclasses import dataclass, field
from typing import Dict, List

import numpy as np
from safetensors import SafetensorError, safe_open

from ..checkpoint import WEIGHT_FORMAT
from ..errors import UserError


@dataclass
class ForeignWeights:
    """Tensors under this project's names; `origin` tells how each was made, `unknown` lists names with no meaning here."""

    format: str
    tensors: Dict[str, np.ndarray] = field(default_factory=dict)
    origin: Dict[str, str] = field(default_factory=dict)
    unknown: List[str] = field(default_factory=list)


def read_weights(path):
    """The tensors of a weight file.

    Raises:
        UserError: the file is absent, damaged, or of no known format.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(10)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from None
    if start[:2] == b"PK":
        arrays = _read_npz(path)
        try:
            return _from_google(arrays)
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}: a tensor has not the shape of Google's layout ({error})") from None
    if start[8:10] in (b'{"', b"{}"):
        return _read_own_safetensors(path)
    raise UserError(f"{path}: neither a Google .npz nor a .safetensors file of this project; check the download")


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged file can raise anything: BadZipFile, zlib.error, TokenError, RuntimeError, ...
        raise UserError(f"{path}: damaged .npz file ({error}); download it again") from None


def _read_own_safetensors(path):
    try:
        with safe_open(str(path), framework="numpy") as archive:
            if (archive.metadata() or {}).get("format") != WEIGHT_FORMAT:
                raise UserError(f"{path}: a .safetensors file that this project did not write; only its own can be read")
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged .safetensors file ({error}); fetch it again") from None
    return ForeignWeights(WEIGHT_FORMAT, tensors, {name: name for name in tensors})


# Google's flax names outside the attention, and what they are here; a kernel is [in, out] in both
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
    (r"head/kernel", "head.weight"),
    (r"head/bias", "head.bias"),
]
_GOOGLE_ATTENTION = re.compile(
    r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/(query|key|value|out)/(kernel|bias)"
)


def _from_google(arrays):
    weights = ForeignWeights("Google .npz")
    fused = {}  # name of a fused tensor -> its parts by source
    for source, array in arrays.items():
        if attention := _GOOGLE_ATTENTION.fullmatch(source):
            block, part, kind = attention.groups()
            kind_here = "weight" if kind == "kernel" else "bias"
            if part == "out":  # kernel [H, D/H, D], bias [D]
                name = f"blocks.{block}.attn.proj.{kind_here}"
                weights.tensors[name] = array.reshape(-1, array.shape[-1]) if kind == "kernel" else array
                weights.origin[name] = source
            else:  # kernel [D, H, D/H], bias [H, D/H]
                flat = array.reshape(array.shape[0], -1) if kind == "kernel" else array.reshape(-1)
                fused.setdefault(f"blocks.{block}.attn.qkv.{kind_here}", {})[part] = flat
        elif name := _google_name(source):
            weights.tensors[name] = array.transpose(3, 2, 0, 1) if name == "patch_embed.proj.weight" else array
            weights.origin[name] = source
        else:
            weights.unknown.append(source)
    for name, parts in fused.items():
        if set(parts) == {"query", "key", "value"}:
            weights.tensors[name] = np.concatenate([parts["query"], parts["key"], parts["value"]], axis=-1)
            weights.origin[name] = "query, key, value fused"
        else:
            weights.unknown.extend(f"{part} of {name}" for part in parts)
    return weights


def _google_name(source):
    for pattern, name in _GOOGLE_NAMES:
        if match := re.fullmatch(pattern, source):
            return match.expand(name)
    return None
