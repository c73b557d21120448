"""The losses in static graphs, with lengths that are not known when the graph is made: what eager execution gives."""

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from rdrop_paddle import RDropBCELoss, RDropLoss, RDropRegressionLoss, UserError, compute_kl_loss, cross_entropy

pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place'")  # Paddle's zeros_like, of itself

rng = np.random.default_rng(0)
P, Q = rng.normal(0, 2, [2, 3, 5, 10]).astype("float32")
LABEL = rng.integers(0, 10, [3, 5])
SOFT = rng.dirichlet(np.ones(10), [3, 5]).astype("float32")
MASK = rng.random([3, 5]) < 0.4
WEIGHT = paddle.to_tensor(rng.uniform(0.1, 2, 10).astype("float32"))
LOGITS = InputSpec([None, None, 10])
INTEGERS = InputSpec([None, None], "int64")
PADDING = InputSpec([None, None], "bool")


def results(function, arrays):
    """What a function gives, and the gradients of its first result with respect to P and Q."""
    tensors = [paddle.to_tensor(array, stop_gradient=number >= 2) for number, array in enumerate(arrays)]
    found = function(*tensors)
    found = found if isinstance(found, (list, tuple)) else [found]
    found[0].backward()
    return [tensor.numpy() for tensor in (*found, *(side.grad for side in tensors[:2]))]


def assert_same(function, translated, arrays):
    for expected, found in zip(results(function, arrays), results(translated, arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    "criterion, arrays, specs",
    [
        (RDropLoss(), [P, Q, LABEL], [LOGITS, LOGITS, INTEGERS]),
        (RDropLoss(2.0, "batchmean"), [P, Q, LABEL[..., None]], [LOGITS, LOGITS, InputSpec([None, None, None], "int64")]),
        (RDropLoss(2.0, "mean", 0.1), [P, Q, LABEL], [InputSpec([None, None, None])] * 2 + [INTEGERS]),
        (RDropLoss(2.0, "batchmean", 0.1), [P, Q, LABEL, MASK], [LOGITS, LOGITS, INTEGERS, PADDING]),
        (RDropLoss(2.0, ignore_index=3, weight=WEIGHT), [P, Q, LABEL], [LOGITS, LOGITS, INTEGERS]),
        (RDropLoss(2.0, "mean", 0.1, ignore_index=3), [P, Q, LABEL, MASK], [LOGITS, LOGITS, INTEGERS, PADDING]),
        (RDropLoss(2.0, weight=WEIGHT), [P, Q, SOFT], [LOGITS] * 3),
        (RDropLoss(2.0, label_smoothing=0.1), [P, Q, LABEL, MASK], None),
        (RDropBCELoss(), [P, Q, (SOFT > 0.1).astype("float32"), MASK], [LOGITS, LOGITS, LOGITS, PADDING]),
        (RDropRegressionLoss(), [P, Q, SOFT], [InputSpec([None, None, None])] * 3),
        (RDropRegressionLoss(), [P, Q, SOFT, MASK], [LOGITS, LOGITS, LOGITS, PADDING]),
    ],
)
def test_a_translated_criterion_has_the_same_value_and_gradients(criterion, arrays, specs):
    eager = criterion.forward  # to_static replaces it
    assert_same(eager, paddle.jit.to_static(criterion, input_spec=specs, full_graph=True), arrays)


def terms(p, q, label):
    return RDropLoss(2.0, "batchmean").terms(p, q, label)


def three_passes(p, q, label):
    return RDropLoss(2.0, "batchmean").of_passes([p, q, p - q], label)


def divergence_and_cross_entropy(p, q, label):
    return compute_kl_loss(p, q, reduction="mean") + cross_entropy(p, label, label == 2, ignore_index=3)


@pytest.mark.parametrize("function", [terms, three_passes, divergence_and_cross_entropy])
def test_functions_with_the_losses_inside_give_the_same_results(function):
    translated = paddle.jit.to_static(function, input_spec=[InputSpec([None, None, None])] * 2 + [INTEGERS], full_graph=True)
    assert_same(function, translated, [P, Q, LABEL])


def test_a_shape_that_is_known_to_be_wrong_is_a_user_error():
    translated = paddle.jit.to_static(
        RDropLoss(), input_spec=[LOGITS, LOGITS, InputSpec([None, None, 9], "float32")], full_graph=True
    )
    with pytest.raises(UserError, match="label has shape .-1, -1, 9."):
        translated(*(paddle.to_tensor(x) for x in (P, Q, SOFT[..., :9])))
