"""R-Drop's loss: the cross entropy of two passes plus the symmetric KL divergence between them.

"R-Drop: Regularized Dropout for Neural Networks", arXiv 2106.14448, equations 2 to 4, halved: 1/2 (CE(p) + CE(q)) +
alpha * 1/2 [KL(P||Q) + KL(Q||P)]. The gradient flows through both sides of both divergences, as in the paper.

    criterion = kl_loss()                                # the values of the AI Studio layer: alpha 0.3, KL summed
    loss = criterion(p_logits, q_logits, label)
"""

import math

import paddle
from paddle import nn

from .errors import UserError

REDUCTIONS = ("sum", "batchmean", "mean")


def compute_kl_loss(p, q, pad_mask=None, *, reduction="sum", stop_target_gradient=False):
    """Symmetric KL divergence 1/2 [KL(P||Q) + KL(Q||P)] between two sets of logits, in nats.

    Args:
        p, q: logits [..., classes] of one shape, any float type; computed in float32. A class may be -inf in both.
        pad_mask: bool [...], True = padding, which counts for nothing (the shape of the logits without the class axis).
        reduction: "sum"; "batchmean" = sum / unmasked positions; "mean" = sum / (unmasked positions * classes).
        stop_target_gradient: treat the target of each divergence as a constant, as Paddle's `F.kl_div` does. The
            value stays; the gradient with respect to p becomes 1/2 (P - Q), about half of the paper's.

    Returns:
        a float32 scalar.

    Raises:
        UserError: a shape or the reduction is wrong; the message names the argument.
    """
    _check_logits(p, q)
    _check_pad_mask(pad_mask, p)
    _check_reduction(reduction)
    divergence = _symmetric_kl(_log_probabilities(p, pad_mask), _log_probabilities(q, pad_mask), stop_target_gradient)
    return _reduce_kl(divergence, p, pad_mask, reduction)


def cross_entropy(logits, label, pad_mask=None, *, label_smoothing=0.0):
    """Mean cross entropy over the unmasked positions, a float32 scalar in nats.

    Args:
        logits: [..., classes]; `label`: integers [...] or [..., 1], or probabilities [..., classes]. A negative one gives NaN:
            what another loss knows by an `ignore_index` such as -100 is marked in `pad_mask` here.
        pad_mask: bool [...], True = padding; labels there may hold anything.
        label_smoothing: the share of the label's mass spread evenly over the classes whose logit is not -inf.

    Raises:
        UserError: a shape or the label smoothing is wrong; the message names the argument.
    """
    _check_pad_mask(pad_mask, logits)
    _check_label_smoothing(label_smoothing)
    label = _checked_label(label, logits)
    return _mean_nll(_log_probabilities(logits, pad_mask), label, pad_mask, label_smoothing)


class RDropLoss(nn.Layer):
    """1/2 (CE(p) + CE(q)) + alpha * symmetric KL(p, q); the defaults give the AI Studio layer's value.

    Args:
        alpha: weight of the KL term, >= 0. Its meaning depends on the reduction: the official 0.3, summed over a
            micro-batch of 32, is 9.6 with "batchmean".
        reduction: of the KL term, see `compute_kl_loss`; the cross entropy is always a mean.
        label_smoothing: in [0, 1], see `cross_entropy`.
        stop_target_gradient: see `compute_kl_loss`; True gives the AI Studio layer's gradient.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(self, alpha=0.3, reduction="sum", label_smoothing=0.0, stop_target_gradient=False):
        super().__init__()
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise UserError(f"alpha is {alpha}: give a finite number >= 0")
        _check_reduction(reduction)
        _check_label_smoothing(label_smoothing)
        self.alpha = alpha
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.stop_target_gradient = stop_target_gradient

    def forward(self, p, q, label, pad_mask=None):
        """The loss, a float32 scalar; arguments as in `terms`."""
        return self.terms(p, q, label, pad_mask)[0]

    def terms(self, p, q, label, pad_mask=None):
        """(loss, cross entropy, KL), with loss = cross entropy + alpha * KL: three float32 scalars.

        Args:
            p, q: logits of the two passes, [..., classes].
            label: integers [...] or [..., 1], or probabilities [..., classes], see `cross_entropy`; for both passes.
            pad_mask: bool [...], True = padding, ignored by both terms.
        """
        _check_logits(p, q)
        _check_pad_mask(pad_mask, p)
        label = _checked_label(label, p)
        log_p, log_q = _log_probabilities(p, pad_mask), _log_probabilities(q, pad_mask)
        nll_p = _mean_nll(log_p, label, pad_mask, self.label_smoothing)
        nll_q = _mean_nll(log_q, label, pad_mask, self.label_smoothing)
        ce = 0.5 * (nll_p + nll_q)
        kl = _reduce_kl(_symmetric_kl(log_p, log_q, self.stop_target_gradient), p, pad_mask, self.reduction)
        return ce + self.alpha * kl, ce, kl

    def extra_repr(self):
        return f"alpha={self.alpha}, reduction={self.reduction}, label_smoothing={self.label_smoothing}"


kl_loss = RDropLoss  # the name in the AI Studio project


def _log_probabilities(logits, pad_mask):
    logits = logits.astype("float32")
    if pad_mask is not None:  # before the softmax, so that not even a NaN in the padding reaches the gradient
        logits = paddle.where(pad_mask.unsqueeze(-1), paddle.zeros_like(logits), logits)
    # not F.log_softmax: on the CPU it returns at least -64 below the largest, which falsifies the KL of sure answers
    return logits - paddle.logsumexp(logits, axis=-1, keepdim=True)


def _symmetric_kl(log_p, log_q, stop_target_gradient):
    """1/2 sum over classes of (P - Q) (log P - log Q), per position: [...]."""
    p, q = log_p.exp(), log_q.exp()
    if stop_target_gradient:
        p, q = p.detach(), q.detach()
    both_masked = paddle.logical_and(log_p == -math.inf, log_q == -math.inf)
    difference = paddle.where(both_masked, paddle.zeros_like(log_p), log_p - log_q)
    return 0.5 * ((p - q) * difference).sum(axis=-1)


def _reduce_kl(divergence, logits, pad_mask, reduction):
    total = _masked_sum(divergence, pad_mask)
    if reduction == "sum":
        return total
    mean = total / _positions(divergence, pad_mask)
    return mean if reduction == "batchmean" else mean / logits.shape[-1]


def _mean_nll(log_p, label, pad_mask, label_smoothing):
    if label.dtype in (paddle.int64, paddle.int32):
        if pad_mask is not None:
            label = paddle.where(pad_mask, paddle.zeros_like(label), label)
        negative = label < 0  # which Paddle would count from the last class; to raise an error would be to wait for the device
        index = paddle.where(negative, paddle.zeros_like(label), label).unsqueeze(-1)
        nll = -paddle.take_along_axis(log_p, index, axis=-1).squeeze(-1)
        nll = paddle.where(negative, paddle.full_like(nll, math.nan), nll)
    else:
        nll = -(label * paddle.where(label > 0, log_p, paddle.zeros_like(log_p))).sum(axis=-1)
    if label_smoothing > 0:
        possible = log_p > -math.inf
        spread = paddle.where(possible, log_p, paddle.zeros_like(log_p)).sum(axis=-1) / possible.astype("float32").sum(-1)
        nll = (1 - label_smoothing) * nll - label_smoothing * spread
    return _masked_sum(nll, pad_mask) / _positions(nll, pad_mask)


def _masked_sum(values, pad_mask):
    if pad_mask is not None:
        values = paddle.where(pad_mask, paddle.zeros_like(values), values)
    return values.sum()


def _positions(values, pad_mask):
    """The number of unmasked positions, at least 1, so that an all-padding batch gives 0 and not NaN."""
    if pad_mask is None:
        return max(values.size, 1)
    return (~pad_mask).astype("float32").sum().clip(min=1.0)


def _check_logits(p, q):
    if p.ndim < 2:
        raise UserError(f"p has shape {list(p.shape)}: logits must be [batch, ..., classes]")
    if list(q.shape) != list(p.shape):
        raise UserError(f"q has shape {list(q.shape)} but p has {list(p.shape)}: give the logits of the same batch")


def _check_pad_mask(pad_mask, logits):
    if pad_mask is None:
        return
    if pad_mask.dtype != paddle.bool:
        raise UserError(f"pad_mask has type {pad_mask.dtype}: give booleans, True = padding")
    if list(pad_mask.shape) != list(logits.shape[:-1]):
        raise UserError(
            f"pad_mask has shape {list(pad_mask.shape)}: give the logits' without classes, {list(logits.shape[:-1])}"
        )


def _checked_label(label, logits):
    """The label as integers [...] or float32 probabilities [..., classes]."""
    positions = list(logits.shape[:-1])
    if label.dtype in (paddle.int64, paddle.int32):
        if list(label.shape) == [*positions, 1]:
            label = label.squeeze(-1)
        if list(label.shape) == positions:
            return label
    elif label.is_floating_point() and list(label.shape) == list(logits.shape):
        return label.astype("float32")
    raise UserError(
        f"label has shape {list(label.shape)} and type {label.dtype}: give integers {positions} "
        f"or probabilities {list(logits.shape)}"
    )


def _check_reduction(reduction):
    if reduction not in REDUCTIONS:
        raise UserError(f"reduction is {reduction!r}: give one of {', '.join(REDUCTIONS)}")


def _check_label_smoothing(label_smoothing):
    if not 0 <= label_smoothing <= 1:
        raise UserError(f"label_smoothing is {label_smoothing}: give a number from 0 to 1")
