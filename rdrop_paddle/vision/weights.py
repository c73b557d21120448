"""Loading weights into a VisionTransformer, with a row in the report for every decision."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import List, NamedTuple

import numpy as np

from ..errors import UserError
from .weight_formats import read_weights


class Row(NamedTuple):
    """What became of one tensor.

    `action` is loaded, transposed, reshaped, fused, resized or reset, if the model has a value for it now; dropped,
    missing, unexpected or misshapen otherwise.
    """

    name: str
    action: str
    detail: str


@dataclass
class WeightReport:
    """Every tensor of the model and of the file, with what was done; `str()` tells what is worth a look."""

    path: str
    format: str
    sha256: str
    rows: List[Row] = field(default_factory=list)

    def names(self, action):
        return [row.name for row in self.rows if row.action == action]

    def summary(self):
        """One line: the format, how many tensors each action befell, and the file's checksum."""
        actions = list(dict.fromkeys(row.action for row in self.rows))
        counts = ", ".join(f"{len(self.names(action))} {action}" for action in actions)
        return f"{self.path} ({self.format}): {counts}, sha256 {self.sha256}"

    def table(self, rows=None):
        """The summary, then a line for each of `rows`, by default all."""
        rows = self.rows if rows is None else rows
        width = max((len(row.name) for row in rows), default=0)
        return "\n".join([self.summary(), *(f"  {r.name:<{width}}  {r.action:<10}  {r.detail}" for r in rows)])

    def __str__(self):
        return self.table([row for row in self.rows if row.action not in ("loaded", "transposed", "reshaped", "fused")])


def load_weights(model, path, *, strict=True, reset_head=False, sha256=None):
    """Load the weights at `path` into `model` and return the WeightReport.

    Args:
        model: a VisionTransformer; changed only when nothing is wrong.
        path: weights as released by Google (.npz), timm (.safetensors, .pth), Hugging Face transformers
            (.safetensors), PaddleClas or AI Studio (.pdparams), or this project's own (.safetensors).
        strict: a tensor that is missing, unexpected or misshapen is an error; otherwise it is a row of the report.
        reset_head: set the head to zero instead of loading it, to fine-tune from a pretrained model; a `pre_logits`
            layer, which belongs to the old head, is then dropped.
        sha256: what the file's must be; without it a file of the same name with .sha256 behind it is looked for.

    Raises:
        UserError: an unreadable file, another checksum, or tensors that do not fit.
    """
    found = read_weights(path, sha256)
    if found.heads is not None and found.heads != model.blocks[0].attn.num_heads:
        raise UserError(f"{path} has {found.heads} attention heads, the model {model.blocks[0].attn.num_heads}")
    report = WeightReport(str(path), found.format, found.sha256)
    tensors = dict(found.tensors)
    if reset_head:
        for name in [name for name in tensors if name.startswith("pre_logits.")]:
            del tensors[name]
            report.rows.append(Row(name, "dropped", "belongs to the old head"))
    state, parameters = {}, model.state_dict()
    for name, parameter in parameters.items():
        shape = list(parameter.shape)
        array = tensors.pop(name, None)
        if reset_head and name.startswith("head."):
            state[name] = np.zeros(shape, "float32")
            report.rows.append(Row(name, "reset", f"zero {shape}"))
        elif array is None:
            report.rows.append(Row(name, "missing", f"expected {shape}"))
        elif array.dtype.kind != "f":
            report.rows.append(Row(name, "misshapen", f"type {array.dtype} in the file, a float in the model"))
        elif list(array.shape) == shape:
            state[name] = array
            action, source = found.made[name]
            report.rows.append(Row(name, action, f"{source} {shape}"))
        elif name == "pos_embed" and _is_position_embedding(array, shape):
            state[name] = resize_position_embedding(array, shape[1])
            report.rows.append(Row(name, "resized", f"{list(array.shape)} to {shape}, bilinear"))
        else:
            report.rows.append(Row(name, "misshapen", f"{list(array.shape)} in the file, {shape} in the model"))
    report.rows += [Row(name, "unexpected", "not in the model") for name in [*tensors, *found.unknown]]
    if strict:
        _refuse_leftovers(report)
    for name, array in state.items():
        parameters[name].set_value(array.astype("float32", copy=False))
    return report


def find_weights(name, data_root):
    """`name` itself if it is a file here, otherwise the file of this name in `data_root`.

    Raises:
        UserError: there is neither.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if len(path.parts) == 1 and (data_root / name).exists():
        return data_root / name
    raise UserError(f"no weights at {name}" + (f", nor in {data_root}" if len(path.parts) == 1 else ""))


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


def _refuse_leftovers(report):
    problems = [row for row in report.rows if row.action in ("missing", "unexpected", "misshapen")]
    if not problems:
        return
    first = "; ".join(f"{row.name} {row.action} ({row.detail})" for row in problems[:3])
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise UserError(f"{report.path} ({report.format}) does not fit the model: {first}{more}")
