"""The naming schemes of released ViTs, recognised by content, to and from this project's names and layout.

The layout is Paddle's: convolutions OIHW, linear layers [in, out], query, key and value fused in this order. The names are
those of PaddleClas and timm.
"""

import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
import paddle
import safetensors.numpy
from safetensors import SafetensorError

from ..durability.checkpoint import WEIGHT_FORMAT
from ..errors import UserError
from ..weights.files import read_weight_file

# attention heads of the released ViTs by (width, depth); PaddleClas has one of width 768 and depth 8 with 8 heads
HEADS = {(192, 12): 3, (384, 12): 6, (768, 12): 12, (1024, 24): 16, (1280, 32): 16}
WRAPPERS = ("_layers.", "module.")  # what Paddle's and torch's DataParallel put before each name


@dataclass
class SourceWeights:
    """Tensors under this project's names; `made` tells how each came about as (action, detail) for the report.

    `unknown` lists names of the file that mean nothing here.
    """

    format: str
    sha256: str
    tensors: Dict[str, np.ndarray] = field(default_factory=dict)
    made: Dict[str, Tuple[str, str]] = field(default_factory=dict)
    unknown: List[str] = field(default_factory=list)
    heads: Optional[int] = None  # attention heads, where the format tells

    def add(self, name, array, action, detail):
        if name in self.tensors:
            self.unknown.append(f"{detail}, a second {name}")
            return
        self.tensors[name] = array
        self.made[name] = (action, detail)

    def add_from_torch(self, name, array, source):
        """Add a tensor in torch's layout, in which a linear layer's weight is [out, in]."""
        if _is_linear(name, array):
            self.add(name, array.T, "transposed", source)
        else:
            self.add(name, array, "loaded", source)

    def halve(self):
        """Round the tensors to float16: half the space, and a weight moves by at most 1/2048 of it, or by 3e-8.

        Raises:
            UserError: a number is too large for float16.
        """
        for name, array in self.tensors.items():
            with np.errstate(over="ignore"):
                self.tensors[name] = array.astype("float16")
            if np.isinf(self.tensors[name]).any():
                raise UserError(f"{name} holds numbers up to {abs(array).max():.3g}, too large for float16: keep float32")


def read_weights(path, sha256=None):
    """The tensors of a weight file of any released format; `sha256` as in `load_weights`.

    Raises:
        UserError: the file is absent, damaged, of no known format, has another checksum, or asks for more than tensors.
    """
    file = read_weight_file(path, sha256)
    arrays, prefix = _without_wrapper(file.arrays)
    try:
        if any(name.startswith(("Transformer/", "embedding/")) for name in arrays):
            weights = _from_google(arrays, file.sha256)
        elif any(name.removeprefix("vit.") == "embeddings.cls_token" for name in arrays):
            weights = _from_transformers(file.container, arrays, file.sha256)
        elif file.metadata.get("format") == WEIGHT_FORMAT:
            weights = _as_it_is("rdrop_paddle .safetensors", arrays, file.sha256)
        elif file.container == "paddle":
            weights = _as_it_is("PaddleClas .pdparams", arrays, file.sha256)
        elif "cls_token" in arrays and file.container in ("torch", "safetensors"):
            weights = _from_timm(file.container, arrays, file.sha256)
        else:
            raise UserError(f"{path}: its tensors are those of no known ViT ({', '.join(list(arrays)[:3]) or 'none'} ...)")
    except UserError:
        raise
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: a tensor has not the shape that its name stands for ({error})") from None
    if prefix:
        weights.format += f", prefix {prefix} removed"
    return weights


def write_weights(weights, path, heads=None, belongings=None):
    """Write SourceWeights by the suffix of `path`: Google's .npz, timm-named .safetensors, or PaddleClas .pdparams.

    Args:
        heads: attention heads, for .npz only, where each has a kernel of its own; None = those of the source where its
            format tells, else those of the released ViT of this width and depth.
        belongings: {name: JSON value} for the header, which .safetensors alone has, see weights/belongings.py.

    Raises:
        UserError: another suffix, unknown tensors, a number of heads that does not fit, or a file that cannot be written.
    """
    path = Path(path)
    if weights.unknown:
        raise UserError(f"{', '.join(weights.unknown[:3])}: unknown, nothing was written")
    unfinished = path.with_name(f"{path.name}.part{path.suffix}")  # numpy appends .npz to any other name
    tensors = {name: np.ascontiguousarray(array) for name, array in weights.tensors.items()}
    try:
        if path.suffix == ".npz":
            np.savez(unfinished, **to_google(tensors, heads or weights.heads or _usual_heads(tensors)))
        elif path.suffix == ".safetensors":
            arrays = {name: np.ascontiguousarray(array) for name, array in to_timm(tensors).items()}
            texts = {name: json.dumps(value) for name, value in (belongings or {}).items()}
            unfinished.write_bytes(safetensors.numpy.save(arrays, metadata={"format": "pt", **texts}))
        elif path.suffix == ".pdparams":
            paddle.save(tensors, str(unfinished))
        else:
            raise UserError(f"{path}: name it .npz, .safetensors or .pdparams")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    except UserError:
        raise
    except (ValueError, KeyError, IndexError, SafetensorError) as error:
        raise UserError(f"cannot write {path}: not the tensors of a ViT ({error})") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def _usual_heads(tensors):
    width = tensors["cls_token"].shape[-1] if "cls_token" in tensors else None
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    if (width, depth) not in HEADS:
        raise UserError(f"no released ViT has the width {width} and {depth} blocks: give the number of heads with --heads")
    return HEADS[width, depth]


def _without_wrapper(arrays):
    for prefix in WRAPPERS:
        if arrays and all(name.startswith(prefix) for name in arrays):
            return {name[len(prefix) :]: array for name, array in arrays.items()}, prefix
    return arrays, ""


def _as_it_is(label, arrays, sha256):
    weights = SourceWeights(label, sha256)
    for name, array in arrays.items():
        weights.add(name, array, "loaded", name)
    return weights


def _from_timm(container, arrays, sha256):
    weights = SourceWeights(f"timm {'.pth' if container == 'torch' else '.safetensors'}", sha256)
    for name, array in arrays.items():
        weights.add_from_torch(name, array, name)
    return weights


def to_timm(tensors):
    """{name: array} in torch's layout, with timm's names."""
    return {name: array.T if _is_linear(name, array) else array for name, array in tensors.items()}


def _is_linear(name, array):
    """A linear layer's weight, which is [out, in] in torch and [in, out] here."""
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


def _from_transformers(container, arrays, sha256):
    suffix = ".safetensors" if container == "safetensors" else ".bin"
    weights, parts = SourceWeights(f"Hugging Face transformers {suffix}", sha256), {}
    for source, array in arrays.items():
        short = source.removeprefix("vit.")
        if match := _TRANSFORMERS_QKV.fullmatch(short):
            block, part, kind = match.groups()
            parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[_TRANSFORMERS_THIRDS.get(part, part)] = array.T
        elif name := _renamed(_TRANSFORMERS_NAMES, short):
            weights.add_from_torch(name, array, source)
        else:
            weights.unknown.append(source)
    _fuse(weights, parts)
    return weights


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
_GOOGLE_ATTENTION = re.compile(
    r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/(query|key|value|out)/(kernel|bias)"
)


def _from_google(arrays, sha256):
    weights, parts = SourceWeights("Google .npz", sha256), {}
    for source, array in arrays.items():
        if match := _GOOGLE_ATTENTION.fullmatch(source):
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
        elif (name := _renamed(_GOOGLE_NAMES, source)) == "patch_embed.proj.weight":
            weights.add(name, array.transpose(3, 2, 0, 1), "transposed", source)
        elif name:
            weights.add(name, array, "loaded", source)
        else:
            weights.unknown.append(source)
    _fuse(weights, parts)
    return weights


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


def _renamed(names, source):
    for pattern, name in names:
        if match := re.fullmatch(pattern, source):
            return match.expand(name)
    return None


def _fuse(weights, parts):
    for name, thirds in parts.items():
        if len({array.shape for array in thirds.values()}) > 1:
            raise ValueError(f"query, key and value of {name} differ in shape")
        if set(thirds) == {"query", "key", "value"}:
            array = np.concatenate([thirds["query"], thirds["key"], thirds["value"]], axis=-1)
            weights.add(name, array, "fused", "query, key and value side by side")
        else:
            weights.unknown += [f"{part} of {name}" for part in thirds]
