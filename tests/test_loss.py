"""The loss against its formula written out in numpy float64."""

from itertools import combinations

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from rdrop_paddle import RDropLoss, UserError, compute_kl_loss, cross_entropy, kl_loss


def log_softmax(x):
    x = np.asarray(x, "float64")
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def numpy_kl(p, q):
    """1/2 [sum KL(P||Q) + sum KL(Q||P)] over everything."""
    log_p, log_q = log_softmax(p), log_softmax(q)
    kl_pq = (np.exp(log_p) * (log_p - log_q)).sum()
    kl_qp = (np.exp(log_q) * (log_q - log_p)).sum()
    return (kl_pq + kl_qp) / 2


def numpy_ce(p, label):
    return -np.take_along_axis(log_softmax(p), label[..., None], -1).mean()


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    p, q = rng.normal(0, 2, [2, 8, 10]).astype("float32")
    return p, q, rng.integers(0, 10, 8)


def tensor(array, gradient=False):
    return paddle.to_tensor(array, stop_gradient=not gradient)


def test_default_value_is_the_ai_studio_layers(logits):
    p, q, label = logits
    expected = 0.5 * (numpy_ce(p, label) + numpy_ce(q, label)) + 0.3 * numpy_kl(p, q)
    assert kl_loss is RDropLoss
    assert kl_loss()(tensor(p), tensor(q), tensor(label)).item() == pytest.approx(expected, rel=1e-6)
    assert kl_loss()(tensor(p), tensor(q), tensor(label[:, None])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "batchmean", "mean"])
def test_gradients_of_both_sides_equal_numeric_ones(logits, reduction):
    p, q, label = logits
    divisor = {"sum": 1, "batchmean": 8, "mean": 80}[reduction]

    def value(p, q):
        return 0.5 * (numpy_ce(p, label) + numpy_ce(q, label)) + 0.7 * numpy_kl(p, q) / divisor

    p_tensor, q_tensor = tensor(p, gradient=True), tensor(q, gradient=True)
    RDropLoss(0.7, reduction)(p_tensor, q_tensor, tensor(label)).backward()
    for side, (array, found) in enumerate([(p, p_tensor.grad.numpy()), (q, q_tensor.grad.numpy())]):
        numeric = np.zeros_like(array, dtype="float64")
        for i in np.ndindex(*array.shape):
            sides = [p.astype("float64"), q.astype("float64")]
            sides[side][i] += 1e-5
            above = value(*sides)
            sides[side][i] -= 2e-5
            numeric[i] = (above - value(*sides)) / 2e-5
        np.testing.assert_allclose(found, numeric, atol=1e-6)


def test_stopped_target_keeps_the_value_and_gives_the_ai_studio_gradient(logits):
    p, q, _ = logits
    p_tensor = tensor(p, gradient=True)
    loss = compute_kl_loss(p_tensor, tensor(q), stop_target_gradient=True)
    loss.backward()
    assert loss.item() == pytest.approx(numpy_kl(p, q), rel=1e-6)
    np.testing.assert_allclose(p_tensor.grad.numpy(), (np.exp(log_softmax(p)) - np.exp(log_softmax(q))) / 2, atol=1e-6)


def test_reductions_differ_by_the_number_of_positions_and_classes(logits):
    p, q, _ = (tensor(x) for x in logits)
    total = compute_kl_loss(p, q).item()
    assert compute_kl_loss(p, q, reduction="batchmean").item() == pytest.approx(total / 8, rel=1e-6)
    assert compute_kl_loss(p, q, reduction="mean").item() == pytest.approx(total / 80, rel=1e-6)


def test_terms_add_up_to_the_loss(logits):
    p, q, label = (tensor(x) for x in logits)
    loss, ce, kl = kl_loss(alpha=2.0).terms(p, q, label)
    assert loss.item() == pytest.approx(ce.item() + 2.0 * kl.item(), rel=1e-6)
    assert kl_loss(alpha=0.0)(p, q, label).item() == pytest.approx(ce.item(), rel=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "batchmean", "mean"])
def test_padding_counts_for_nothing_not_even_when_it_is_nan(reduction):
    rng = np.random.default_rng(1)
    p, q = rng.normal(size=[2, 3, 5, 7]).astype("float32")
    label = rng.integers(0, 7, [3, 5])
    mask = np.zeros([3, 5], bool)
    mask[:, 3:] = True
    criterion = RDropLoss(1.5, reduction, label_smoothing=0.1)
    short = [tensor(x[:, :3]) for x in (p, q, label)]
    expected = [t.item() for t in criterion.terms(*short)]
    p[mask], q[mask], label[mask] = np.nan, np.inf, -100
    p_tensor = tensor(p, gradient=True)
    found = criterion.terms(p_tensor, tensor(q), tensor(label), tensor(mask))
    found[0].backward()
    assert [t.item() for t in found] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(p_tensor.grad.numpy()).all()
    assert not p_tensor.grad.numpy()[mask].any() and p_tensor.grad.numpy()[~mask].all()


def test_probabilities_in_the_padding_may_be_nan_too():
    p, mask = np.ones([3, 4], "float32"), np.array([False, True, False])
    label = np.full([3, 4], 0.25, "float32")
    p[mask], label[mask] = np.nan, np.nan
    p_tensor = tensor(p, gradient=True)
    loss = RDropLoss()(p_tensor, tensor(p), tensor(label), tensor(mask))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(4), rel=1e-6) and np.isfinite(p_tensor.grad.numpy()).all()


@pytest.mark.parametrize("shape, ignored", [([4], -1), ([4, 1], -100)])
def test_a_negative_label_is_no_class(shape, ignored):
    p, label = tensor(np.zeros([4, 7], "float32")), np.array([0, ignored, 6, 1])
    assert np.isnan(cross_entropy(p, tensor(label.reshape(shape))).item())
    found = RDropLoss()(p, p, tensor(label.reshape(shape)), tensor(label < 0)).item()
    assert found == pytest.approx(np.log(7), rel=1e-6)


def test_padding_alone_gives_zero():
    p = tensor(np.ones([2, 3, 4], "float32"))
    assert RDropLoss(1.0)(p, 2 * p, tensor(np.zeros([2, 3], "int64")), tensor(np.ones([2, 3], bool))).item() == 0


def test_huge_logits_give_the_exact_finite_value():
    p = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 5.0]], "float32")
    q = np.array([[-1e4, 1e4, 0.0], [-1e4, 1e4, 5.0]], "float32")
    p_tensor, q_tensor = tensor(p, gradient=True), tensor(q, gradient=True)
    loss = compute_kl_loss(p_tensor, q_tensor)
    loss.backward()
    assert loss.item() == pytest.approx(numpy_kl(p, q), rel=1e-6) == 2e4
    assert np.isfinite(p_tensor.grad.numpy()).all() and np.isfinite(q_tensor.grad.numpy()).all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_class_masked_on_both_sides_is_as_if_it_were_not_there(logits, label_smoothing):
    p, q, label = logits
    label = np.minimum(label, 8)
    criterion = RDropLoss(2.0, "batchmean", label_smoothing)
    expected = criterion(tensor(p[:, :9]), tensor(q[:, :9]), tensor(label)).item()
    p, q = p.copy(), q.copy()
    p[:, 9] = q[:, 9] = -np.inf
    p_tensor = tensor(p, gradient=True)
    loss = criterion(p_tensor, tensor(q), tensor(label))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert np.abs(p_tensor.grad.numpy()[:, 9]).max() < 1e-30 and np.isfinite(p_tensor.grad.numpy()).all()


def test_label_smoothing_and_soft_labels_are_one_formula(logits):
    p, _, label = logits
    smooth = 0.9 * np.eye(10)[label] + 0.1 / 10
    expected = -(smooth * log_softmax(p)).sum(-1).mean()
    assert cross_entropy(tensor(p), tensor(label), label_smoothing=0.1).item() == pytest.approx(expected, rel=1e-6)
    assert cross_entropy(tensor(p), tensor(smooth.astype("float32"))).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ignored, kind", [(-100, "int64"), (4, "int32"), (255, "uint8")])
def test_ignored_labels_count_for_nothing_in_either_term_as_padding_does(ignored, kind):
    rng = np.random.default_rng(2)
    p, q = rng.normal(size=[2, 3, 5, 7]).astype("float32")
    label = rng.integers(0, 4, [3, 5])
    mask = np.zeros([3, 5], bool)
    mask[:, 4], label[1:, :2] = True, ignored
    kept = ~mask & (label != ignored)
    criterion = RDropLoss(1.5, "batchmean", label_smoothing=0.1, ignore_index=ignored)
    expected = [t.item() for t in RDropLoss(1.5, "batchmean", 0.1).terms(*(tensor(x[kept]) for x in (p, q, label)))]
    p_tensor = tensor(p, gradient=True)
    label = tensor(label.astype(kind))
    found = criterion.terms(p_tensor, tensor(q), label, tensor(mask))
    found[0].backward()
    assert [t.item() for t in found] == pytest.approx(expected, rel=1e-5)
    assert not p_tensor.grad.numpy()[~kept].any() and p_tensor.grad.numpy()[kept].all()
    one_pass = cross_entropy(p_tensor, label.unsqueeze(-1), tensor(mask), ignore_index=ignored).item()
    assert one_pass == pytest.approx(numpy_ce(p[kept], label.numpy().astype("int64")[kept]), rel=1e-6)


def test_a_negative_label_that_is_not_the_ignored_one_is_nan():
    p, label = tensor(np.zeros([3, 7], "float32")), tensor(np.array([0, -1, -100]))
    assert np.isnan(cross_entropy(p, label, ignore_index=-100).item())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_class_weights_are_paddles(logits, label_smoothing, soft):
    p, _, label = logits
    rng = np.random.default_rng(3)
    label = rng.dirichlet(np.ones(10), 8).astype("float32") if soft else label
    weight = tensor(rng.uniform(0.1, 3, 10).astype("float32"))
    ours, theirs = tensor(p, gradient=True), tensor(p, gradient=True)
    found = cross_entropy(ours, tensor(label), weight=weight, label_smoothing=label_smoothing)
    expected = F.cross_entropy(theirs, tensor(label), weight, soft_label=soft, label_smoothing=label_smoothing)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-7)


def test_an_ignored_label_has_no_weight_as_in_paddle(logits):
    p, _, label = logits
    label[:3] = 6
    weight = tensor(np.arange(1, 11, dtype="float32"))
    found = cross_entropy(tensor(p), tensor(label), weight=weight, ignore_index=6).item()
    assert found == pytest.approx(F.cross_entropy(tensor(p), tensor(label), weight, ignore_index=6).item(), rel=1e-6)
    with_padding = cross_entropy(tensor(p), tensor(label), tensor(label == 6), weight=weight).item()
    assert with_padding == found
    assert cross_entropy(tensor(p), tensor(label), tensor(label < 10), weight=weight).item() == 0


def test_class_weights_leave_the_kl_alone(logits):
    p, q, label = (tensor(x) for x in logits)
    weight = tensor(np.arange(1, 11, dtype="float32"))
    ce, kl = kl_loss(weight=weight).terms(p, q, label)[1:]
    assert kl.item() == kl_loss().terms(p, q, label)[2].item()
    assert ce.item() == pytest.approx(sum(F.cross_entropy(x, label, weight).item() for x in (p, q)) / 2, rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
def test_several_passes_are_means_over_passes_and_over_pairs(reduction, count):
    rng = np.random.default_rng(4)
    passes, label = rng.normal(0, 2, [count, 8, 10]).astype("float32"), rng.integers(0, 10, 8)
    ce = np.mean([numpy_ce(p, label) for p in passes])
    kl = np.mean([numpy_kl(p, q) for p, q in combinations(passes, 2)]) / {"sum": 1, "batchmean": 8}[reduction]
    found = RDropLoss(0.5, reduction).of_passes([tensor(p) for p in passes], tensor(label))
    assert [t.item() for t in found] == pytest.approx([ce + 0.5 * kl, ce, kl], rel=1e-6)


def test_the_representation_shows_every_setting():
    weight = tensor(np.array([1, 0.5], "float32"))
    assert repr(RDropLoss(2.0, "mean", 0.1, True, -100, weight)) == (
        "RDropLoss(alpha=2.0, reduction=mean, label_smoothing=0.1, stop_target_gradient=True, ignore_index=-100, "
        "weight=[1. , 0.5])"
    )
    assert len(repr(RDropLoss(weight=paddle.ones([1000])))) < 200


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_arithmetic_is_float32_whatever_the_logits_type(logits, kind):
    p, q, label = (tensor(x) for x in logits)
    p, q = p.astype(kind), q.astype(kind)
    expected = kl_loss()(p.astype("float32"), q.astype("float32"), label)
    found = kl_loss()(p, q, label)
    assert found.dtype == paddle.float32 and found.item() == expected.item()


P = np.zeros([4, 3], "float32")
LABEL = np.zeros([4], "int64")


@pytest.mark.parametrize(
    "argument, call",
    [
        ("alpha", lambda: RDropLoss(alpha=-0.1)),
        ("alpha", lambda: RDropLoss(alpha=float("nan"))),
        ("reduction", lambda: RDropLoss(reduction="none")),
        ("reduction", lambda: compute_kl_loss(tensor(P), tensor(P), reduction="total")),
        ("label_smoothing", lambda: RDropLoss(label_smoothing=1.5)),
        ("q has shape", lambda: compute_kl_loss(tensor(P), tensor(P[:2]))),
        ("p has shape", lambda: compute_kl_loss(tensor(P[0]), tensor(P[0]))),
        ("pad_mask", lambda: compute_kl_loss(tensor(P), tensor(P), tensor(np.zeros([3], bool)))),
        ("pad_mask", lambda: compute_kl_loss(tensor(P), tensor(P), tensor(LABEL))),
        ("label", lambda: RDropLoss()(tensor(P), tensor(P), tensor(LABEL[:3]))),
        ("label", lambda: RDropLoss()(tensor(P), tensor(P), tensor(P[:, :2]))),
    ],
)
def test_a_wrong_argument_is_named(argument, call):
    with pytest.raises(UserError, match=argument):
        call()
