"""The loss from hidden states in chunks, held against the loss of the logits and against the official criterion's formula."""

import subprocess
import sys
from itertools import product

import numpy as np
import paddle
import pytest
from conftest import ROOT, tool_environment

from rdrop_paddle import (
    FusedLinearRDropLoss,
    RDropLoss,
    UserError,
    cross_entropy,
    fused_linear_cross_entropy,
    fused_linear_loss,
)

VOCABULARY, WIDTH = 50, 16


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Seven positions a chunk, which divide none of the numbers of positions here."""
    for name, value in (("CHUNK_ON_CPU", 7 * VOCABULARY), ("CHUNK", 7 * VOCABULARY), ("FEWEST_ROWS", 1)):
        monkeypatch.setattr(fused_linear_loss, name, value)


@pytest.fixture
def arrays():
    """(hidden states of two passes [4, 9, WIDTH] each and a weight, label [4, 9], mask [4, 9])"""
    rng = np.random.default_rng(0)
    p = rng.normal(size=[4, 9, WIDTH])
    q = p + 0.5 * rng.normal(size=p.shape)
    floats = [x.astype("float32") for x in (p, q, rng.normal(0, 0.4, [VOCABULARY, WIDTH]))]
    return floats, rng.integers(0, VOCABULARY, [4, 9]), rng.random([4, 9]) < 0.3


def both(call, arrays, label, mask=None, scale=1.0):
    """call(*hidden, weight, label, mask) -> the loss or terms; those and the gradients of `scale` times the loss."""
    tensors = [paddle.to_tensor(x, stop_gradient=False) for x in arrays]
    found = call(*tensors, paddle.to_tensor(label), None if mask is None else paddle.to_tensor(mask))
    terms = found if isinstance(found, tuple) else (found,)
    (terms[0] * scale).backward()
    return [x.numpy() for x in (*terms, *(tensor.grad for tensor in tensors))]


def of_logits(criterion):
    """A loss of logits as one of hidden states and a weight."""

    def call(*tensors):
        *hidden, weight, label, mask = tensors
        logits = [paddle.matmul(values, weight, transpose_y=True) for values in hidden]
        return criterion(*logits, label, mask)

    return call


def assert_same(found, expected, relative=1e-6):
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected)):
        assert a.shape == b.shape and np.abs(a - b).max() <= relative * np.abs(b).max(), number


@pytest.mark.parametrize("masked, label_smoothing, stop", [*product([False, True], [0.0, 0.1], [False, True])])
@pytest.mark.parametrize("alpha, reduction", [(0.7, "batchmean"), (0.7, "sum"), (0.7, "mean"), (0.0, "batchmean")])
def test_values_and_gradients_are_those_of_the_logits(arrays, masked, label_smoothing, stop, alpha, reduction):
    floats, label, mask = arrays
    settings, mask = (alpha, reduction, label_smoothing, stop), mask if masked else None
    expected = both(of_logits(RDropLoss(*settings).terms), floats, label, mask, scale=3)
    assert_same(both(FusedLinearRDropLoss(*settings).terms, floats, label, mask, scale=3), expected, 2e-6)


@pytest.mark.parametrize("masked, label_smoothing", [*product([False, True], [0.0, 0.1])])
def test_one_pass_is_the_cross_entropy(arrays, masked, label_smoothing):
    (p, _, weight), label, mask = arrays
    mask = mask if masked else None

    def with_smoothing(criterion):
        return lambda *given: criterion(*given, label_smoothing=label_smoothing)

    expected = both(of_logits(with_smoothing(cross_entropy)), (p, weight), label, mask, scale=3)
    assert_same(both(with_smoothing(fused_linear_cross_entropy), (p, weight), label[..., None], mask, scale=3), expected, 2e-6)


@pytest.mark.parametrize("alpha, label_smoothing", [(5.0, 0.1), (1.0, 0.0)])
def test_twice_the_loss_with_half_the_alpha_is_the_official_criterions(arrays, alpha, label_smoothing):
    floats, label, mask = arrays
    p, q, weight = (x.astype("float64") for x in floats)
    total = 0.0
    for position in zip(*np.nonzero(~mask)):
        log_p, log_q = (
            np.log(np.exp(logits) / np.exp(logits).sum()) for logits in (weight @ p[position], weight @ q[position])
        )
        for log_probabilities in (log_p, log_q):
            total += -(1 - label_smoothing) * log_probabilities[label[position]]
            total += label_smoothing / VOCABULARY * -log_probabilities.sum()
        kl = (np.exp(log_p) * (log_p - log_q)).sum() + (np.exp(log_q) * (log_q - log_p)).sum()
        total += alpha * kl / 2
    found = both(FusedLinearRDropLoss(alpha / 2, label_smoothing=label_smoothing), floats, label, mask)[0]
    assert 2 * found == pytest.approx(total / (~mask).sum(), rel=1e-6)


def test_padding_reaches_nothing_not_even_as_nan(arrays):
    floats, label, mask = arrays
    criterion = FusedLinearRDropLoss(0.7, label_smoothing=0.1).terms
    expected = both(criterion, floats, label, mask)
    floats[0][mask], floats[1][mask], label[mask] = np.nan, np.inf, -100
    found = both(criterion, floats, label, mask)
    assert_same(found, expected, 0)
    assert not found[3][mask].any() and found[3][~mask].all()


def test_padding_alone_gives_zero_and_no_gradient(arrays):
    floats, label, mask = arrays
    assert not any(x.any() for x in both(FusedLinearRDropLoss(0.7).terms, floats, label, np.ones_like(mask)))


@pytest.mark.parametrize("scale", [1, 40, 2000])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_sure_answers_have_the_value_of_the_logits_and_finite_gradients(arrays, monkeypatch, scale, on_cpu):
    monkeypatch.setattr(fused_linear_loss, "on_cpu", lambda tensor: on_cpu)  # a GPU's way is right on a CPU too
    (p, q, weight), label, _ = arrays
    floats = (p, q, scale * weight)
    found, expected = (
        both(c, floats, label) for c in (FusedLinearRDropLoss(1.0).terms, of_logits(RDropLoss(1.0, "batchmean").terms))
    )
    assert_same(found[:3], expected[:3])
    assert_same(found[3:], expected[3:], 1e-4)  # float32's rounding of logits in the hundreds


def test_a_gpu_is_waited_for_once_a_call_and_not_in_each_chunk(arrays, monkeypatch):
    (*hidden, weight), label, _ = [[paddle.to_tensor(x) for x in arrays[0]], *map(paddle.to_tensor, arrays[1:])]
    monkeypatch.setattr(fused_linear_loss, "on_cpu", lambda tensor: False)
    look, looks = paddle.Tensor.item, []
    monkeypatch.setattr(paddle.Tensor, "item", lambda self, *index: looks.append(1) or look(self, *index))
    FusedLinearRDropLoss(0.7)(*hidden, weight, label)
    assert len(looks) == 2  # the smallest label and the largest


def test_a_tied_embedding_gets_the_gradients_of_both_its_uses(arrays):
    (_, _, weight), label, _ = arrays

    def of_embedding(criterion):
        def call(weight, label, _):
            hidden = paddle.nn.functional.embedding(label, weight).tanh()
            return criterion(hidden, 2 * hidden, weight, label, None)

        return call

    found = both(of_embedding(FusedLinearRDropLoss(0.7)), (weight,), label)
    assert_same(found, both(of_embedding(of_logits(RDropLoss(0.7, "batchmean"))), (weight,), label), 2e-6)


def test_sixteen_bits_in_give_float32_values_and_sixteen_bit_gradients(arrays):
    floats, label, mask = arrays
    criterion, label, mask = FusedLinearRDropLoss(0.7, label_smoothing=0.1), paddle.to_tensor(label), paddle.to_tensor(mask)
    given = [paddle.to_tensor(x).astype("bfloat16") for x in floats]
    found, exact = ([x.astype(kind).detach() for x in given] for kind in ("bfloat16", "float32"))
    for tensor in (*found, *exact):
        tensor.stop_gradient = False
    losses = [criterion(*tensors, label, mask) for tensors in (found, exact)]
    for loss in losses:
        loss.backward()
    assert losses[0].dtype == paddle.float32 and losses[0].item() == losses[1].item()
    for ours, theirs in zip(found, exact):
        assert ours.grad.dtype == paddle.bfloat16
        assert (ours.grad == theirs.grad.astype("bfloat16")).all()


def test_what_asks_for_no_gradient_gets_none(arrays):
    floats, label, _ = arrays
    p, q, weight = (paddle.to_tensor(x) for x in floats)
    p.stop_gradient = False
    criterion, label = FusedLinearRDropLoss(0.7), paddle.to_tensor(label)
    loss, ce, kl = criterion.terms(p, q, weight, label)
    loss.backward()
    assert ce.stop_gradient and kl.stop_gradient
    assert p.grad is not None and q.grad is None and weight.grad is None
    with paddle.no_grad():
        without = criterion(p, q, weight, label)
    assert without.stop_gradient and without.item() == loss.item()


MEMORY = """
import resource
import paddle
from rdrop_paddle import FusedLinearRDropLoss
weight = paddle.ones([50000, 8])
weight.stop_gradient = False
for positions in (128, 768):
    p, q = paddle.ones([2, positions, 8]).unbind()
    p.stop_gradient = False
    FusedLinearRDropLoss()(p, q, weight, paddle.zeros([positions], "int64")).backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_positions_times_classes():
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, env=tool_environment(ROOT), cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    fewer, more = map(float, done.stdout.split())
    assert more - fewer < 40  # MB; the logits of one pass would be 122 more


P, WEIGHT, LABEL = paddle.ones([2, 3, 4]), paddle.ones([5, 4]), paddle.zeros([2, 3], "int64")
criterion = FusedLinearRDropLoss()


@pytest.mark.parametrize(
    "message, call",
    [
        ("alpha is -1", lambda: FusedLinearRDropLoss(alpha=-1)),
        ("label_smoothing is 2", lambda: fused_linear_cross_entropy(P, WEIGHT, LABEL, label_smoothing=2)),
        ("q_hidden has shape .2, 4. but p_hidden has .2, 3, 4.", lambda: criterion(P, P[:, 0], WEIGHT, LABEL)),
        ("q_hidden is a numpy.ndarray", lambda: criterion(P, P.numpy(), WEIGHT, LABEL)),
        ("weight has shape .4, 5. .*give .classes, 4., weight.t()", lambda: criterion(P, P, WEIGHT.t(), LABEL)),
        ("weight has type .*int64", lambda: criterion(P, P, WEIGHT.astype("int64"), LABEL)),
        ("hidden has type .*int64", lambda: fused_linear_cross_entropy(P.astype("int64"), WEIGHT, LABEL)),
        (r"label has shape .2. .*give integers \[2, 3\]", lambda: criterion(P, P, WEIGHT, LABEL[:, 0])),
        (r"label .*float32: give integers \[2, 3\]", lambda: criterion(P, P, WEIGHT, LABEL.astype("float32"))),
        ("label holds -1, which is none of 5 classes", lambda: criterion(P, P, WEIGHT, LABEL - 1)),
        ("label holds 5, which is none of 5 classes", lambda: fused_linear_cross_entropy(P, WEIGHT, LABEL + 5)),
        ("pad_mask has type .*int64", lambda: criterion(P, P, WEIGHT, LABEL, LABEL)),
        (r"pad_mask has shape \[2\]: give the label's, \[2, 3\]", lambda: criterion(P, P, WEIGHT, LABEL, LABEL[:, 0] == 0)),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it(message, call):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_representation_shows_every_setting():
    assert repr(FusedLinearRDropLoss(2.0, "mean", 0.1, True)) == (
        "FusedLinearRDropLoss(alpha=2.0, reduction=mean, label_smoothing=0.1, stop_target_gradient=True)"
    )
