"""Names of ViTs from torch and their layout, in which a linear layer's weight is [out, in], to this project's and back."""

import re
from dataclasses import dataclass
from typing import List, Tuple

from ..weights.loading import SourceWeights
from ..weights.naming import fuse, renamed


@dataclass(frozen=True)
class Scheme:
    """How a library calls a ViT's tensors, behind a root that some of its classes put before them.

    `names` are (pattern, name here); `thirds` fits a query, key or value that is held alone, as (block, part, weight or bias).
    """

    library: str
    suffix: str  # of its files that are not safetensors
    root: str
    names: List[Tuple[str, str]]
    thirds: str = r"(?!)"


# as in files that save_pretrained writes, and as in version 5's own state dicts; DeiT without distillation is such a ViT
TRANSFORMERS = Scheme(
    "Hugging Face transformers",
    ".bin",
    r"(?:vit|deit)\.",
    [
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
    ],
    r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)",
)
# jeonsworld's, in which the official R-Drop code is written
VIT_PYTORCH = Scheme(
    "ViT-pytorch",
    ".bin",
    r"transformer\.",
    [
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.patch_embeddings\.(weight|bias)", r"patch_embed.proj.\1"),
        (r"encoder\.layer\.(\d+)\.attention_norm\.(weight|bias)", r"blocks.\1.norm1.\2"),
        (r"encoder\.layer\.(\d+)\.ffn_norm\.(weight|bias)", r"blocks.\1.norm2.\2"),
        (r"encoder\.layer\.(\d+)\.attn\.out\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
        (r"encoder\.layer\.(\d+)\.ffn\.(fc1|fc2)\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
        (r"encoder\.encoder_norm\.(weight|bias)", r"norm.\1"),
        (r"head\.(weight|bias)", r"head.\1"),
    ],
    r"encoder\.layer\.(\d+)\.attn\.(query|key|value)\.(weight|bias)",
)
TORCHVISION = Scheme(
    "torchvision",
    ".pth",
    "",
    [
        (r"class_token", "cls_token"),
        (r"encoder\.pos_embedding", "pos_embed"),
        (r"conv_proj\.(weight|bias)", r"patch_embed.proj.\1"),
        (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
        (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
        (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
        # the numbers are those of the layers since version 0.13
        (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_1|0)\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
        (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_2|3)\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
        (r"encoder\.ln\.(weight|bias)", r"norm.\1"),
        (r"heads\.head\.(weight|bias)", r"head.\1"),
        (r"heads\.pre_logits\.(weight|bias)", r"pre_logits.fc.\1"),
    ],
)
_THIRDS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}


def from_torch(scheme, container, arrays, sha256):
    """SourceWeights of {name: array} under the names of a Scheme."""
    suffix = ".safetensors" if container == "safetensors" else scheme.suffix
    weights, parts = SourceWeights(f"{scheme.library} {suffix}", sha256), {}
    for source, array in arrays.items():
        short = re.sub(f"^{scheme.root}", "", source)
        if match := re.fullmatch(scheme.thirds, short):
            block, part, kind = match.groups()
            parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[_THIRDS.get(part, part)] = array.T
        elif name := renamed(scheme.names, short):
            _add(weights, name, array, source)
        else:
            weights.unknown.append(source)
    fuse(weights, parts)
    return weights


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
