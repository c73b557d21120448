"""RDropBCELoss and RDropRegressionLoss against their formulas written out in numpy float64."""

import numpy as np
import paddle
import pytest

from rdrop_paddle import RDropBCELoss, RDropRegressionLoss, compute_kl_loss


def binary_kl(p, q):
    """1/2 [KL(P||Q) + KL(Q||P)] of yes and no, each from its definition."""
    (yes_p, no_p), (yes_q, no_q) = ([1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))] for x in (p, q))
    kl_pq = yes_p * np.log(yes_p / yes_q) + no_p * np.log(no_p / no_q)
    kl_qp = yes_q * np.log(yes_q / yes_p) + no_q * np.log(no_q / no_p)
    return ((kl_pq + kl_qp) / 2).mean()


def binary_cross_entropy(p, label):
    return (label * np.log1p(np.exp(-p)) + (1 - label) * np.log1p(np.exp(p))).mean()


def squared_error(a, b):
    return ((a - b) ** 2).mean()


KINDS = pytest.mark.parametrize(
    "criterion, error, distance",
    [(RDropBCELoss(0.7), binary_cross_entropy, binary_kl), (RDropRegressionLoss(0.7), squared_error, squared_error)],
    ids=["binary", "regression"],
)


@pytest.fixture
def outputs():
    """Outputs of three passes and labels, each [4, 3]; some of the first are 0, as all of a new head are."""
    rng = np.random.default_rng(0)
    passes = rng.normal(0, 2, [3, 4, 3])
    passes[0, 0] = 0
    return passes, rng.integers(0, 2, [4, 3]).astype("float64")


def tensor(array, gradient=False):
    return paddle.to_tensor(np.asarray(array, "float32"), stop_gradient=not gradient)


@KINDS
def test_value_and_both_gradients_are_the_formulas(criterion, error, distance, outputs):
    passes, label = outputs
    p, q = passes[:2]

    def value(p, q):
        return (error(p, label) + error(q, label)) / 2 + 0.7 * distance(p, q)

    p_tensor, q_tensor = tensor(p, gradient=True), tensor(q, gradient=True)
    loss = criterion(p_tensor, q_tensor, tensor(label))
    loss.backward()
    assert loss.item() == pytest.approx(value(p, q), rel=1e-6)
    for side, found in enumerate([p_tensor.grad.numpy(), q_tensor.grad.numpy()]):
        numeric = np.zeros_like(p)
        for i in np.ndindex(*p.shape):
            sides = [p.copy(), q.copy()]
            sides[side][i] += 1e-5
            above = value(*sides)
            sides[side][i] -= 2e-5
            numeric[i] = (above - value(*sides)) / 2e-5
        np.testing.assert_allclose(found, numeric, atol=1e-6)


@KINDS
def test_terms_are_means_over_passes_and_over_pairs(criterion, error, distance, outputs):
    passes, label = outputs
    p, q, r = passes
    expected = np.mean([error(x, label) for x in passes]), np.mean([distance(*pair) for pair in ((p, q), (p, r), (q, r))])
    loss, first, second = criterion.of_passes([tensor(x) for x in passes], tensor(label))
    assert (first.item(), second.item()) == pytest.approx(expected, rel=1e-6)
    assert loss.item() == pytest.approx(expected[0] + 0.7 * expected[1], rel=1e-6)


@KINDS
@pytest.mark.parametrize("per_output", [False, True])
def test_padding_counts_for_nothing_not_even_when_it_is_nan(criterion, error, distance, outputs, per_output):
    (p, q, _), label = outputs
    mask = np.zeros([4, 3] if per_output else [4], bool)
    mask[1:3] = True
    if per_output:
        mask[0, 2] = True
    kept = ~mask
    expected = [t.item() for t in criterion.terms(*(tensor(x[kept].reshape(-1, 1)) for x in (p, q, label)))]
    p[mask], q[mask], label[mask] = np.nan, np.inf, np.nan
    p_tensor = tensor(p, gradient=True)
    found = criterion.terms(p_tensor, tensor(q), tensor(label), paddle.to_tensor(mask))
    found[0].backward()
    assert [t.item() for t in found] == pytest.approx(expected, rel=1e-6)
    assert not p_tensor.grad.numpy()[mask].any() and p_tensor.grad.numpy()[kept].all()


@KINDS
def test_one_output_takes_a_label_without_its_axis_and_of_any_type(criterion, error, distance, outputs):
    passes, label = outputs
    p, q = (tensor(x[:, :1]) for x in passes[:2])
    label = label[:, 0]
    expected = criterion(p, q, tensor(label[:, None])).item()
    assert criterion(p, q, paddle.to_tensor(label.astype("int64"))).item() == expected
    assert criterion(p.squeeze(-1), q.squeeze(-1), paddle.to_tensor(label.astype(bool))).item() == expected


@KINDS
def test_padding_alone_gives_zero(criterion, error, distance):
    p = tensor(np.ones([2, 3]))
    assert criterion(p, 2 * p, p, paddle.to_tensor([True, True])).item() == 0


def test_the_default_regression_is_half_of_the_official_sts_b(outputs):
    (p, q, _), label = outputs
    official = squared_error(p, label) + squared_error(q, label) + 1.0 * squared_error(p, q)
    assert 2 * RDropRegressionLoss()(tensor(p), tensor(q), tensor(label)).item() == pytest.approx(official, rel=1e-6)


@pytest.mark.parametrize("p, q, label", [(20, 25, 1), (-20, -25, 0), (80, -80, 1), (1e4, -1e4, 0)])
def test_sure_answers_keep_a_finite_loss_and_an_exact_kl(p, q, label):
    p_tensor = tensor([[p]], gradient=True)
    loss, bce, kl = RDropBCELoss().terms(p_tensor, tensor([[q]]), tensor([[label]]))
    loss.backward()
    no_more_than_80 = np.clip([p, q], -80, 80).astype("float64")
    expected = binary_kl(*no_more_than_80) * abs(p - q) / abs(np.subtract(*no_more_than_80))  # 1/2 (P - Q) (p - q)
    assert kl.item() == pytest.approx(expected, rel=1e-5)
    assert bce.item() == pytest.approx(np.mean([np.logaddexp(0, x if label == 0 else -x) for x in (p, q)]), rel=1e-6, abs=1e-8)
    assert np.isfinite(p_tensor.grad.numpy()).all()


def test_the_binary_kl_of_two_logits_is_that_of_two_classes():
    rng = np.random.default_rng(1)
    p, q = rng.normal(0, 2, [2, 5]).astype("float32")
    two_classes = [paddle.stack([tensor(x), tensor(np.zeros(5))], axis=-1) for x in (p, q)]
    expected = compute_kl_loss(*two_classes, reduction="batchmean").item()
    assert RDropBCELoss().terms(tensor(p), tensor(q), tensor(np.ones(5)))[2].item() == pytest.approx(expected, rel=1e-5)
