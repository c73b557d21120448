"""A wrong argument of a loss is one line that names it and says what to give instead."""

import numpy as np
import paddle
import pytest

from rdrop_paddle import RDropBCELoss, RDropLoss, RDropRegressionLoss, UserError, compute_kl_loss, cross_entropy

P = paddle.zeros([4, 3])
LABEL = paddle.zeros([4], "int64")
ARRAY = np.zeros([4, 3], "float32")
criterion, binary, regression = RDropLoss(), RDropBCELoss(), RDropRegressionLoss()


def pixels(*shape):
    """Logits of a shape that may have the classes second."""
    return paddle.zeros(shape)


def labels(*shape):
    return paddle.zeros(shape, "int64")


@pytest.mark.parametrize(
    "message, call",
    [
        # one output has no classes
        (
            r"p has shape \[4, 1\].*regression take RDropRegressionLoss.*RDropBCELoss",
            lambda: criterion(P[:, :1], P[:, :1], LABEL),
        ),
        ("regression", lambda: compute_kl_loss(P[:, :1], P[:, :1])),
        ("regression", lambda: cross_entropy(P[:, :1], P[:, 0])),
        (r"p has shape \[4\].*regression", lambda: criterion(P[:, 0], P[:, 0], P[:, 0])),
        # no numbers with a gradient
        (r"p has type .*int64.*: give floats", lambda: criterion(P.astype("int64"), P.astype("int64"), LABEL)),
        (r"p has type .*bool.*: give floats", lambda: regression(P > 0, P > 0, P)),
        ("alpha is '0.3': give a finite number >= 0", lambda: RDropLoss(alpha="0.3")),
        # no tensor
        (r"p is a numpy.ndarray: .*paddle.to_tensor\(p\)", lambda: criterion(ARRAY, ARRAY, LABEL)),
        (r"q is a list: .*paddle.to_tensor\(q\)", lambda: compute_kl_loss(P, ARRAY.tolist())),
        (r"logits is a numpy.ndarray: .*paddle.to_tensor\(logits\)", lambda: cross_entropy(ARRAY, LABEL)),
        (r"label is a list: .*paddle.to_tensor\(label\)", lambda: criterion(P, P, [0, 1, 2, 0])),
        ("label is a numpy.ndarray", lambda: regression(P, P, ARRAY)),
        ("label is a NoneType", lambda: binary(P, P, None)),
        (r"pad_mask is a numpy.ndarray: .*paddle.to_tensor\(pad_mask\)", lambda: criterion(P, P, LABEL, ARRAY[:, 0] > 0)),
        ("pad_mask is a numpy.ndarray", lambda: binary(P, P, P, ARRAY > 0)),
        (r"weight is a list: .*paddle.to_tensor\(weight\)", lambda: RDropLoss(weight=[1.0, 2.0, 3.0])),
        ("p is a list of tensors.*of_passes", lambda: criterion([P, P, P], LABEL, None)),
        # classes second
        (r"label .*transpose\(\[0, 2, 3, 1\]\)", lambda: cross_entropy(pixels(2, 3, 5, 6), labels(2, 5, 6))),
        (r"label .*transpose\(\[0, 2, 3, 1\]\)", lambda: cross_entropy(pixels(2, 5, 5, 5), labels(2, 1, 5, 5))),
        (r"label .*transpose\(\[0, 2, 1\]\)", lambda: criterion(pixels(2, 3, 5), pixels(2, 3, 5), labels(2, 5))),
        (r"pad_mask .*transpose\(\[0, 2, 1\]\)", lambda: compute_kl_loss(*[pixels(2, 3, 5)] * 2, labels(2, 5) == 0)),
        # shapes and types that do not fit
        (r"give integers \[4\].*RDropBCELoss", lambda: criterion(P, P, P.astype("int64"))),
        ("label has shape .4. but p has .4, 3.", lambda: binary(P, P, LABEL)),
        ("label has shape .4, 1. but p has .4, 3.", lambda: regression(P, P, P[:, :1])),
        ("pad_mask has shape .3.", lambda: regression(P, P, P, LABEL[:3] == 0)),
        ("pad_mask has type .*int64", lambda: binary(P, P, P, LABEL)),
        # passes
        ("pass 3 has shape .2, 3. but p has .4, 3.", lambda: criterion.of_passes([P, P, P[:2]], LABEL)),
        ("two passes or more", lambda: criterion.of_passes([P], LABEL)),
        ("two passes or more", lambda: regression.of_passes(P, P)),
        # settings
        ("alpha", lambda: RDropRegressionLoss(alpha=-1)),
        ("alpha", lambda: RDropBCELoss(alpha=float("inf"))),
        ("ignore_index is 'pad'", lambda: RDropLoss(ignore_index="pad")),
        ("ignore_index is for integer labels", lambda: RDropLoss(ignore_index=-100)(P, P, P)),
        ("weight has shape .4, 3.", lambda: RDropLoss(weight=P)),
        ("weight has shape .2.: .*each class, .3.", lambda: cross_entropy(P, LABEL, weight=P[0, :2])),
    ],
)
def test_a_wrong_argument_is_named_with_what_to_give(message, call):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32"])
def test_any_integers_are_labels(kind):
    p, label = paddle.to_tensor(np.arange(12, dtype="float32").reshape(4, 3) ** 2), paddle.to_tensor([2, 0, 1, 1])
    assert criterion(p, 2 * p, label.astype(kind)).item() == criterion(p, 2 * p, label).item()


def test_where_the_shapes_cannot_tell_the_classes_are_last():
    assert cross_entropy(pixels(2, 5, 5, 5), labels(2, 5, 5)).item() == pytest.approx(np.log(5))
