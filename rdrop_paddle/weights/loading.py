"""Weights under a model's own names, and loading them into it, with a row in the report for every decision."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np

from ..errors import UserError
from .report import Row


@dataclass
class SourceWeights:
    """Tensors under this project's names; `made` tells how each came about as (action, detail) for the report.

    `unknown` lists names of the file that mean nothing here, `dropped` tells of names of the file why they are left out.
    """

    format: str
    sha256: str
    tensors: Dict[str, np.ndarray] = field(default_factory=dict)
    made: Dict[str, Tuple[str, str]] = field(default_factory=dict)
    unknown: List[str] = field(default_factory=list)
    dropped: Dict[str, str] = field(default_factory=dict)
    heads: Optional[int] = None  # attention heads, where the format tells

    @classmethod
    def as_they_are(cls, label, arrays, sha256):
        """Of {name: array} that has this project's names and layout already."""
        weights = cls(label, sha256)
        for name, array in arrays.items():
            weights.add(name, array, "loaded", name)
        return weights

    def add(self, name, array, action, detail):
        if name in self.tensors:
            self.unknown.append(f"{detail}, a second {name}")
            return
        self.tensors[name] = array
        self.made[name] = (action, detail)

    def drop(self, name, why):
        """Leave out the tensor under one of this project's names."""
        del self.tensors[name]
        self.dropped[name] = why

    def refuse_nonfinite(self, path):
        """Raises a UserError that names the first tensor with a number that float32 does not have, NaN or infinity."""
        for name, array in self.tensors.items():
            if array.dtype.kind == "f" and not np.abs(array).max(initial=0) <= np.finfo("float32").max:
                raise UserError(f"{path}: {name} holds NaN or infinity: take weights of before the training broke")

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


def load_into(layer, source, report, *, strict=True, reset=(), resize=None):
    """Set the parameters of `layer`, which changes only when nothing is wrong, and add a row for each to the report.

    Args:
        layer: a paddle.nn.Layer.
        source: the SourceWeights.
        strict: a tensor that is missing, unexpected or misshapen is an error; otherwise it is a row of the report.
        reset: beginnings of the names of parameters that become zero instead.
        resize: resize(name, array, shape) gives (an array of this shape, what was done) for a tensor of another shape, or
            None where there is no way.

    Raises:
        UserError: tensors that do not fit.
    """
    tensors, state, parameters = dict(source.tensors), {}, layer.state_dict()
    for name, parameter in parameters.items():
        shape = list(parameter.shape)
        array = tensors.pop(name, None)
        if name.startswith(tuple(reset)):
            state[name] = np.zeros(shape, "float32")
            report.rows.append(Row(name, "reset", f"zero {shape}"))
        elif array is None:
            report.rows.append(Row(name, "missing", f"expected {shape}"))
        elif array.dtype.kind != "f":
            report.rows.append(Row(name, "misshapen", f"type {array.dtype} in the file, a float in the model"))
        elif list(array.shape) == shape:
            state[name] = array
            action, detail = source.made[name]
            report.rows.append(Row(name, action, f"{detail} {shape}"))
        elif resized := resize and resize(name, array, shape):
            state[name], how = resized
            report.rows.append(Row(name, "resized", f"{list(array.shape)} to {shape}, {how}"))
        else:
            report.rows.append(Row(name, "misshapen", f"{list(array.shape)} in the file, {shape} in the model"))
    report.rows += [Row(name, "dropped", why) for name, why in source.dropped.items()]
    report.rows += [Row(name, "unexpected", "not in the model") for name in [*tensors, *source.unknown]]
    if strict:
        report.refuse_leftovers()
    for name, array in state.items():
        parameters[name].set_value(array.astype("float32", copy=False))


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
    nor = f", nor in {data_root}: put them there; where they are to be had is in the task's guide in docs/"
    raise UserError(f"no weights at {name}" + (nor if len(path.parts) == 1 else ""))
