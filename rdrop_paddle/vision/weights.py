"""Loading weights into a VisionTransformer, with a row in the report for every decision."""

import numpy as np

from ..errors import UserError
from ..weights.loading import load_into
from ..weights.report import WeightReport
from .weight_formats import read_weights


def load_weights(model, path, *, strict=True, reset_head=False, sha256=None, ema=False):
    """Load the weights at `path` into `model` and return the WeightReport.

    Args:
        model: a VisionTransformer; changed only when nothing is wrong.
        path: a file, folder or index of shards: weights as released by Google (.npz), timm, Hugging Face transformers,
            torchvision or the official R-Drop code (.safetensors, .pth), PaddleClas or AI Studio (.pdparams), or this
            project's own (.safetensors); see docs/weights.md.
        strict: a tensor that is missing, unexpected or misshapen is an error; otherwise it is a row of the report.
        reset_head: set the head to zero instead of loading it, to fine-tune from a pretrained model; a `pre_logits`
            layer, which belongs to the old head, is then dropped.
        sha256: what the file's must be; without it a file of the same name with .sha256 behind it is looked for.
        ema: the moving average of the weights that a training checkpoint holds beside them, instead of them.

    Raises:
        UserError: an unreadable file, another checksum, tensors that do not fit or are not finite, or no average.
    """
    found = read_weights(path, sha256, ema)
    if found.heads is not None and found.heads != model.blocks[0].attn.num_heads:
        raise UserError(f"{path} has {found.heads} attention heads, the model {model.blocks[0].attn.num_heads}")
    report = WeightReport(str(path), found.format, found.sha256)
    if reset_head:
        for name in [name for name in found.tensors if name.startswith("pre_logits.")]:
            found.drop(name, "belongs to the old head")
    reset = ["head."] if reset_head else []
    load_into(model, found, report, strict=strict, reset=reset, resize=_resized)
    return report


def _resized(name, array, shape):
    if name == "pos_embed" and _is_position_embedding(array, shape):
        return resize_position_embedding(array, shape[1]), "bilinear"
    return None


def resize_position_embedding(embedding, tokens):
    """Position embeddings [1, 1 + g*g, D] to [1, tokens, D]: the class token's as it is, the grid bilinearly.

    The outermost points of both grids coincide (align_corners), as in `scipy.ndimage.zoom(order=1)`, which
    Google's and the official R-Drop code use.
    """
    class_token, grid = embedding[:, :1], embedding[0, 1:]  # [1, 1, D], [g*g, D]
    old, new = _side(embedding.shape[1]), _side(tokens)
    weights = _interpolation(old, new)
    grid = grid.reshape(old, old, -1).astype("float64")
    grid = np.einsum("yi,xj,ijd->yxd", weights, weights, grid, optimize=True)
    return np.concatenate([class_token, grid.reshape(1, new * new, -1).astype(embedding.dtype)], axis=1)


def _interpolation(old, new):
    """The matrix [new, old] that interpolates linearly between `old` points, both ends kept."""
    position = np.linspace(0, old - 1, new)[:, None]  # [new, 1]
    return np.clip(1 - np.abs(position - np.arange(old)), 0, None)


def _side(tokens):
    return round((tokens - 1) ** 0.5)


def _is_position_embedding(array, shape):
    if array.ndim != 3 or array.shape[::2] != (1, shape[2]) or array.shape[1] < 2:
        return False
    return _side(array.shape[1]) ** 2 == array.shape[1] - 1
