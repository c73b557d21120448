"""What the losses require of their arguments. Only types and shapes are looked at, so that nothing waits for the device.

A static graph may not know a length yet: -1 in a shape stands for any.
"""

import math
from numbers import Integral, Real

import paddle

from .errors import UserError

REDUCTIONS = ("sum", "batchmean", "mean")
INTEGERS = (paddle.int64, paddle.int32, paddle.int16, paddle.int8, paddle.uint8)


def check_settings(alpha=0.0, reduction="sum", label_smoothing=0.0, ignore_index=None, weight=None):
    """Raise UserError where a number or name is out of range."""
    if not (isinstance(alpha, Real) and alpha >= 0 and math.isfinite(alpha)):
        raise UserError(f"alpha is {alpha!r}: give a finite number >= 0")
    if reduction not in REDUCTIONS:
        raise UserError(f"reduction is {reduction!r}: give one of {', '.join(REDUCTIONS)}")
    if not 0 <= label_smoothing <= 1:
        raise UserError(f"label_smoothing is {label_smoothing}: give a number from 0 to 1")
    if not (ignore_index is None or isinstance(ignore_index, Integral)):
        raise UserError(f"ignore_index is {ignore_index!r}: give an integer, or None to ignore no label")
    if weight is not None:
        _check_tensor("weight", weight)
        if weight.ndim != 1:
            raise UserError(f"weight has shape {list(weight.shape)}: give one number for each class, [classes]")


def check_passes(passes):
    """Two passes or more, all tensors of one shape."""
    if not isinstance(passes, (list, tuple)) or len(passes) < 2:
        raise UserError("passes: give a list of the outputs of two passes or more, as in of_passes([p, q, r], label)")
    names = ["p", "q", *(f"pass {number}" for number in range(3, len(passes) + 1))]
    first = passes[0]
    for name, outputs in zip(names, passes):
        _check_floats(name, outputs)
        if not fits(outputs.shape, first.shape):
            raise UserError(
                f"{name} has shape {list(outputs.shape)} but p has {list(first.shape)}: give the outputs of the same batch"
            )


def check_logits(name, logits, pad_mask):
    """Logits [batch, ..., classes] and, if any, booleans [batch, ...]."""
    _check_floats(name, logits)
    if logits.ndim < 2:
        raise UserError(
            f"{name} has shape {list(logits.shape)}: logits must be [batch, ..., classes]; "
            "for a regression take RDropRegressionLoss"
        )
    if logits.shape[-1] == 1:
        raise UserError(
            f"{name} has shape {list(logits.shape)}, one output, whose softmax is always 1: "
            "for a regression take RDropRegressionLoss, for yes or no RDropBCELoss"
        )
    if pad_mask is not None:
        _check_boolean(pad_mask)
        if not fits(pad_mask.shape, logits.shape[:-1]):
            wrong = f"pad_mask has shape {list(pad_mask.shape)}"
            _check_classes_last(wrong, pad_mask, logits)
            raise UserError(f"{wrong}: give the logits' without classes, {list(logits.shape[:-1])}")


def checked_label(label, logits, pad_mask, ignore_index):
    """The label as integers [...] or float32 probabilities [..., classes], and the mask with ignored labels added."""
    _check_tensor("label", label)
    shape, positions = list(logits.shape), list(logits.shape[:-1])
    if label.dtype in INTEGERS:
        if fits(label.shape, [*positions, 1]):
            label = label.squeeze(-1)
        if fits(label.shape, positions):
            label = label if label.dtype == paddle.int32 else label.astype("int64")
            return label, _with_ignored(pad_mask, label, ignore_index)
    elif label.is_floating_point() and fits(label.shape, shape):
        if ignore_index is not None:
            raise UserError("ignore_index is for integer labels: with probabilities give pad_mask")
        return label.astype("float32"), pad_mask
    wrong = f"label has shape {list(label.shape)} and type {label.dtype}"
    _check_classes_last(wrong, label, logits)
    hint = "; for several classes at once take RDropBCELoss" if fits(label.shape, shape) else ""
    raise UserError(f"{wrong}: give integers {positions} or probabilities {shape}{hint}")


def checked_projection(passes, weight, label, pad_mask):
    """The label as integers [...], for hidden states [..., D] of one pass or two and a weight [classes, D]."""
    if not paddle.in_dynamic_mode():
        raise UserError("a static graph holds the logits in any case: take RDropLoss or cross_entropy of them there")
    names = ["hidden"] if len(passes) == 1 else ["p_hidden", "q_hidden"]
    for name, hidden in [("weight", weight), *zip(names, passes)]:
        _check_floats(name, hidden)
    shape = list(passes[0].shape)
    if list(passes[-1].shape) != shape:
        raise UserError(f"q_hidden has shape {list(passes[-1].shape)} but p_hidden has {shape}: give those of the same batch")
    if weight.ndim != 2 or weight.shape[1] != shape[-1]:
        hint = ", weight.t()" if weight.ndim == 2 and weight.shape[0] == shape[-1] else ""
        raise UserError(f"weight has shape {list(weight.shape)} but {names[0]} has {shape}: give [classes, {shape[-1]}]{hint}")
    _check_tensor("label", label)
    positions = shape[:-1]
    if label.dtype not in INTEGERS or not (fits(label.shape, positions) or fits(label.shape, [*positions, 1])):
        raise UserError(f"label has shape {list(label.shape)} and type {label.dtype}: give integers {positions}")
    if pad_mask is not None:
        _check_boolean(pad_mask)
        if not fits(pad_mask.shape, positions):
            raise UserError(f"pad_mask has shape {list(pad_mask.shape)}: give the label's, {positions}")
    return label.reshape(positions).astype("int64")


def check_classes(label, classes):
    """Integers from 0 to classes - 1; this waits for the device."""
    if label.size and not 0 <= (found := label.min().item()) <= (found := label.max().item()) < classes:
        raise UserError(f"label holds {found}, which is none of {classes} classes: mark what does not count by pad_mask")


def checked_weight(weight, logits):
    """Nothing, or the classes' weights as float32 [classes]."""
    if weight is None:
        return None
    if not fits(weight.shape, logits.shape[-1:]):
        raise UserError(f"weight has shape {list(weight.shape)}: give one number for each class, {list(logits.shape[-1:])}")
    return weight.astype("float32")


def checked_targets(passes, label, pad_mask):
    """Label and mask in the outputs' shape; the mask may come without its last axis, the label without one of length 1."""
    check_passes(passes)
    _check_tensor("label", label)
    outputs = passes[0]
    shape = list(outputs.shape)
    if shape[-1:] == [1] and fits(label.shape, shape[:-1]):
        label = label.unsqueeze(-1)
    if not fits(label.shape, shape):
        raise UserError(f"label has shape {list(label.shape)} but p has {shape}: give a number for each output")
    if pad_mask is not None:
        _check_boolean(pad_mask)
        if fits(pad_mask.shape, shape[:-1]):
            pad_mask = pad_mask.unsqueeze(-1).expand_as(outputs)
        if not fits(pad_mask.shape, shape):
            raise UserError(f"pad_mask has shape {list(pad_mask.shape)}: give the outputs', {shape}, or without the last axis")
    return label, pad_mask


def fits(shape, expected):
    """Whether two shapes are, or in a static graph may become, the same."""
    return len(shape) == len(expected) and all(a == b or -1 in (a, b) for a, b in zip(shape, expected))


def _check_classes_last(wrong, positions, logits):
    """Raise UserError where `positions` would fit if the logits' axis 1 were that of the classes."""
    shape = list(logits.shape)
    batch, rest = shape[:1], shape[2:]
    if rest and (fits(positions.shape, batch + rest) or fits(positions.shape, [*batch, 1, *rest])):
        order = [0, *range(2, len(shape)), 1]
        raise UserError(f"{wrong}, the logits {shape}: the classes come last here, logits.transpose({order})")


def _with_ignored(pad_mask, label, ignore_index):
    if ignore_index is None:
        return pad_mask
    ignored = label == ignore_index
    return ignored if pad_mask is None else paddle.logical_or(pad_mask, ignored)


def _check_floats(name, value):
    _check_tensor(name, value)
    if not value.is_floating_point():
        raise UserError(f"{name} has type {value.dtype}: give floats")


def _check_tensor(name, value):
    if hasattr(value, "stop_gradient"):  # Paddle's own have it, in a static graph too; numpy's and torch's do not
        return
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    if isinstance(value, (list, tuple)) and any(hasattr(item, "stop_gradient") for item in value):
        raise UserError(f"{name} is a {kind} of tensors: give one tensor; for more than two passes of_passes([p, q, r], label)")
    raise UserError(f"{name} is a {kind}: give a Paddle tensor, paddle.to_tensor({name})")


def _check_boolean(pad_mask):
    _check_tensor("pad_mask", pad_mask)
    if pad_mask.dtype != paddle.bool:
        raise UserError(f"pad_mask has type {pad_mask.dtype}: give booleans, True = padding")
