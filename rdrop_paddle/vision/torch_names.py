"""Names of ViTs from torch and their layout, in which a linear layer's weight is [out, in], to this project's and back."""

import re

from ..weights.loading import SourceWeights
from ..weights.naming import fuse, renamed


def from_timm(container, arrays, sha256):
    weights = SourceWeights(f"timm {'.pth' if container == 'torch' else '.safetensors'}", sha256)
    for name, array in arrays.items():
        _add(weights, name, array, name)
    return weights


def to_timm(tensors):
    """{name: array} in torch's layout, with timm's names."""
    return {name: array.T if _is_linear(name, array) else array for name, array in tensors.items()}


def _add(weights, name, array, source):
    if _is_linear(name, array):
        weights.add(name, array.T, "transposed", source)
    else:
        weights.add(name, array, "loaded", source)


def _is_linear(name, array):
    return name.endswith(".weight") and array.ndim == 2


# as in files that save_pretrained writes, and as in version 5's own state dicts
_TRANSFORMERS_NAMES = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"layers\.(\d+)\.attention\.o_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"layers\.(\d+)\.mlp\.(fc1|fc2)\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
    (r"classifier\.(weight|bias)", r"head.\1"),
    (r"pooler\.dense\.(weight|bias)", r"pre_logits.fc.\1"),
]
_TRANSFORMERS_QKV = re.compile(
    r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)"
)
_TRANSFORMERS_THIRDS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}


def from_transformers(container, arrays, sha256):
    suffix = ".safetensors" if container == "safetensors" else ".bin"
    weights, parts = SourceWeights(f"Hugging Face transformers {suffix}", sha256), {}
    for source, array in arrays.items():
        short = source.removeprefix("vit.")
        if match := _TRANSFORMERS_QKV.fullmatch(short):
            block, part, kind = match.groups()
            parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[_TRANSFORMERS_THIRDS.get(part, part)] = array.T
        elif name := renamed(_TRANSFORMERS_NAMES, short):
            _add(weights, name, array, source)
        else:
            weights.unknown.append(source)
    fuse(weights, parts)
    return weights
