"""The naming schemes of released ViTs, recognised by content, to and from this project's names and layout.

The layout is Paddle's: convolutions OIHW, linear layers [in, out], query, key and value fused in this order. The names are
those of PaddleClas and timm.
"""

import re
from pathlib import Path

from ..durability.checkpoint import WEIGHT_FORMAT as OWN
from ..errors import UserError
from ..weights.conversion import write_weight_file
from ..weights.files import read_weight_file
from ..weights.loading import SourceWeights
from .google_names import from_google, to_google
from .torch_names import TORCHVISION, TRANSFORMERS, VIT_PYTORCH, from_timm, from_torch, to_timm

# attention heads of the released ViTs by (width, depth); PaddleClas has one of width 768 and depth 8 with 8 heads
HEADS = {(192, 12): 3, (384, 12): 6, (768, 12): 12, (1024, 24): 16, (1280, 32): 16}
# names that every ViT has: Hugging Face's and ViT-pytorch's, PaddleClas's and timm's, torchvision's, Google's
ANCHOR = r"(?:(?:vit|deit|transformer)\.)?embeddings\.cls_token|cls_token|class_token|embedding/kernel"


def read_weights(path, sha256=None, ema=False):
    """The tensors of a weight file of any released format; arguments as in `load_weights`.

    Raises:
        UserError: the file is absent, damaged, of no known format, has another checksum, asks for more than tensors, holds a
            training run's momentum, or a tensor with NaN or infinity.
    """
    file = read_weight_file(path, sha256, anchor=ANCHOR, ema=ema)
    arrays = file.arrays
    for name in arrays:
        if name.endswith(("distillation_token", "dist_token")):
            raise UserError(f"{path}: {name} is a second class token, which this ViT has not: take one without distillation")
    try:
        if any(name.startswith(("Transformer/", "embedding/")) for name in arrays):
            weights = from_google(arrays, file.sha256)
        elif any(re.fullmatch(r"(?:vit\.|deit\.)?embeddings\.cls_token", name) for name in arrays):
            weights = from_torch(TRANSFORMERS, file.container, arrays, file.sha256)
        elif file.metadata.get("format") == OWN:
            weights = SourceWeights.as_they_are(f"{OWN} .safetensors", arrays, file.sha256)
        elif file.container == "paddle" and "cls_token" in arrays:
            weights = SourceWeights.as_they_are("PaddleClas .pdparams", arrays, file.sha256)
        elif "transformer.embeddings.cls_token" in arrays:
            weights = from_torch(VIT_PYTORCH, file.container, arrays, file.sha256)
        elif "class_token" in arrays:
            weights = from_torch(TORCHVISION, file.container, arrays, file.sha256)
        elif "cls_token" in arrays and file.container in ("torch", "safetensors"):
            weights = from_timm(file.container, arrays, file.sha256)
        else:
            raise UserError(f"{path}: its tensors are those of no known ViT ({', '.join(list(arrays)[:3]) or 'none'} ...)")
    except UserError:
        raise
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: a tensor has not the shape that its name stands for ({error})") from None
    weights.refuse_nonfinite(path)
    weights.format = ", ".join([weights.format, *file.notes])
    return weights


def write_weights(weights, path, heads=None, belongings=None):
    """Write SourceWeights by the suffix of `path`: Google's .npz, timm-named .safetensors, or PaddleClas .pdparams.

    Those of no ViT, which this project has trained on text, stay as they are, and .safetensors alone holds them.

    Args:
        heads: attention heads, for .npz only, where each has a kernel of its own; None = those of the source where its
            format tells, else those of the released ViT of this width and depth.
        belongings: {name: JSON value} for the header, which .safetensors alone has, see weights/belongings.py.

    Raises:
        UserError: another suffix, unknown tensors, a number of heads that does not fit, or a file that cannot be written.
    """
    if weights.unknown:
        raise UserError(f"{', '.join(weights.unknown[:3])}: unknown, nothing was written")
    arrays = weights.tensors
    if weights.format.startswith(OWN) and "cls_token" not in arrays:
        if Path(path).suffix != ".safetensors":
            raise UserError(f"{path}: the weights of no ViT are .safetensors alone, name it so")
        return write_weight_file(arrays, path, belongings, OWN)
    try:
        if Path(path).suffix == ".npz":
            arrays = to_google(arrays, heads or weights.heads or _usual_heads(arrays))
        elif Path(path).suffix == ".safetensors":
            arrays = to_timm(arrays)
    except UserError:
        raise
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(f"cannot write {path}: not the tensors of a ViT ({error})") from None
    write_weight_file(arrays, path, belongings)


def _usual_heads(tensors):
    width = tensors["cls_token"].shape[-1] if "cls_token" in tensors else None
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    if (width, depth) not in HEADS:
        raise UserError(f"no released ViT has the width {width} and {depth} blocks: give the number of heads with --heads")
    return HEADS[width, depth]
