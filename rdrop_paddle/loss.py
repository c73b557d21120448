"""R-Drop's losses: what the task asks of two passes, plus alpha times how far the passes are apart.

"R-Drop: Regularized Dropout for Neural Networks", arXiv 2106.14448, equations 2 to 4, halved: 1/2 (CE(p) + CE(q)) +
alpha * 1/2 [KL(P||Q) + KL(Q||P)]. The gradient flows through both sides of both divergences, as in the paper.

    criterion = kl_loss()                                # the values of the AI Studio layer: alpha 0.3, KL summed
    loss = criterion(p_logits, q_logits, label)

    kl_loss, RDropLoss     one class for each position: cross entropy and KL
    RDropBCELoss           any number of classes, yes or no for each: binary cross entropy and KL
    RDropRegressionLoss    numbers: squared error and squared difference

All three also work in static graphs, where a length may be unknown, and for more than two passes.
"""

import math
from itertools import combinations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from .loss_arguments import check_logits, check_passes, check_settings, checked_label, checked_targets, checked_weight


@paddle.jit.not_to_static  # it is traced as it stands: translated, a shape would hold tensors, which no check can compare
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
        UserError: a type, a shape or the reduction is wrong; the message names the argument.
    """
    check_settings(reduction=reduction)
    check_passes([p, q])
    check_logits("p", p, pad_mask)
    divergence = _symmetric_kl(_log_probabilities(p, pad_mask), _log_probabilities(q, pad_mask), stop_target_gradient)
    return _reduce_kl(divergence, p, pad_mask, reduction)


@paddle.jit.not_to_static
def cross_entropy(logits, label, pad_mask=None, *, label_smoothing=0.0, ignore_index=None, weight=None):
    """Mean cross entropy over the positions that are neither masked nor ignored, a float32 scalar in nats.

    Args:
        logits: [..., classes].
        label: integers [...] or [..., 1], or probabilities [..., classes]. A negative one that is not ignored gives NaN; one of
            `classes` or more is Paddle's to refuse: an error on a CPU, the end of the CUDA context on a GPU.
        pad_mask: bool [...], True = padding; labels there may hold anything.
        label_smoothing: the share of the label's mass spread evenly over the classes whose logit is not -inf.
        ignore_index: the integer label of positions that are padding too, often -100 or 255.
        weight: of the classes, [classes]. A position's weight is that of its label, or of label smoothing and probabilities
            the mean that they form; the sum over positions is divided by the sum of their weights. All of it as in
            `paddle.nn.CrossEntropyLoss`; torch weighs the classes of a smoothed label one by one.

    Raises:
        UserError: a type, a shape or the label smoothing is wrong; the message names the argument.
    """
    check_settings(label_smoothing=label_smoothing, ignore_index=ignore_index, weight=weight)
    check_logits("logits", logits, pad_mask)
    label, pad_mask = checked_label(label, logits, pad_mask, ignore_index)
    weight = checked_weight(weight, logits)
    return _mean_nll(_log_probabilities(logits, pad_mask), label, pad_mask, label_smoothing, weight)


class PassesLoss(nn.Layer):
    """A mean over passes plus alpha times a mean over pairs of passes; a subclass gives `of_passes`."""

    def __init__(self, alpha):
        super().__init__()
        check_settings(alpha=alpha)
        self.alpha = alpha

    def forward(self, p, q, label, pad_mask=None):
        """The loss, a float32 scalar; arguments as in `terms`."""
        return self.terms(p, q, label, pad_mask)[0]

    def terms(self, p, q, label, pad_mask=None):
        """What `of_passes` gives for the outputs p and q of two passes, with one label and one mask for both."""
        return self.of_passes([p, q], label, pad_mask)

    def _with_loss(self, error, distance):
        # a copy, since a static graph of Paddle 3.3 adds in place, without regard to what else it has to give
        return error + self.alpha * distance, error.clone(), distance

    def extra_repr(self):
        return f"alpha={self.alpha}"


class RDropLoss(PassesLoss):
    """1/2 (CE(p) + CE(q)) + alpha * symmetric KL(p, q); the defaults give the AI Studio layer's value.

    Args:
        alpha: weight of the KL term, >= 0. Its meaning depends on the reduction: the official 0.3, summed over a
            micro-batch of 32, is 9.6 with "batchmean".
        reduction: of the KL term, see `compute_kl_loss`; the cross entropy is always a mean.
        label_smoothing: in [0, 1], see `cross_entropy`.
        stop_target_gradient: see `compute_kl_loss`; True gives the AI Studio layer's gradient.
        ignore_index: of integer labels, None or the one whose positions count for nothing in both terms, see `cross_entropy`.
        weight: of the classes in the cross entropy, None or [classes], see `cross_entropy`; the KL knows no labels.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self, alpha=0.3, reduction="sum", label_smoothing=0.0, stop_target_gradient=False, ignore_index=None, weight=None
    ):
        super().__init__(alpha)
        check_settings(reduction=reduction, label_smoothing=label_smoothing, ignore_index=ignore_index, weight=weight)
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.stop_target_gradient = stop_target_gradient
        self.ignore_index = ignore_index
        self.register_buffer("weight", weight, persistable=False)

    @paddle.jit.not_to_static
    def of_passes(self, passes, label, pad_mask=None):
        """(loss, cross entropy, KL), with loss = cross entropy + alpha * KL: three float32 scalars.

        Args:
            passes: [p, q, ...], the logits of two passes or more, each [..., classes]: the cross entropy is the mean over the
                passes, the KL the mean over their pairs.
            label: integers [...] or [..., 1], or probabilities [..., classes], see `cross_entropy`; for all passes.
            pad_mask: bool [...], True = padding, ignored by both terms.
        """
        check_passes(passes)
        logits = passes[0]
        check_logits("p", logits, pad_mask)
        label, pad_mask = checked_label(label, logits, pad_mask, self.ignore_index)
        weight = checked_weight(self.weight, logits)
        log_probabilities = [_log_probabilities(outputs, pad_mask) for outputs in passes]
        ce = _mean([_mean_nll(log_p, label, pad_mask, self.label_smoothing, weight) for log_p in log_probabilities])
        divergences = [_symmetric_kl(*pair, self.stop_target_gradient) for pair in combinations(log_probabilities, 2)]
        kl = _mean([_reduce_kl(divergence, logits, pad_mask, self.reduction) for divergence in divergences])
        return self._with_loss(ce, kl)

    def extra_repr(self):
        weight = None if self.weight is None else np.array2string(self.weight.numpy(), separator=", ", threshold=10)
        return (
            f"{super().extra_repr()}, reduction={self.reduction}, label_smoothing={self.label_smoothing}, "
            f"stop_target_gradient={self.stop_target_gradient}, ignore_index={self.ignore_index}, weight={weight}"
        )


kl_loss = RDropLoss  # the name in the AI Studio project


class RDropBCELoss(PassesLoss):
    """1/2 (BCE(p) + BCE(q)) + alpha * symmetric KL between the passes' yes or no: several classes at once, or one output.

    Args:
        alpha: weight of the KL term, >= 0, or a UserError. Both terms are means over positions and classes.
    """

    def __init__(self, alpha=1.0):
        super().__init__(alpha)

    @paddle.jit.not_to_static
    def of_passes(self, passes, label, pad_mask=None):
        """(loss, binary cross entropy, KL), with loss = binary cross entropy + alpha * KL: three float32 scalars, in nats.

        Args:
            passes: [p, q, ...], finite logits of two passes or more, each [..., classes], of any float type.
            label: multi-hot or probabilities, of the logits' shape; for one output it may lack the last axis.
            pad_mask: bool [...] or [..., classes], True = padding or an unknown label, which counts for nothing.
        """
        label, pad_mask = checked_targets(passes, label, pad_mask)
        label, *logits = [_without_padding(values.astype("float32"), pad_mask) for values in (label, *passes)]
        bce = _mean([_masked_mean(_binary_cross_entropy(p, label), pad_mask) for p in logits])
        kl = _mean([_masked_mean(_symmetric_binary_kl(p, q), pad_mask) for p, q in combinations(logits, 2)])
        return self._with_loss(bce, kl)


class RDropRegressionLoss(PassesLoss):
    """1/2 (MSE(p) + MSE(q)) + alpha * the mean of (p - q)^2: for numbers, where there are no classes and so no KL.

    Args:
        alpha: weight of the difference, >= 0, or a UserError. The default is the paper's for STS-B, 1.0, halved as the errors.
    """

    def __init__(self, alpha=0.5):
        super().__init__(alpha)

    @paddle.jit.not_to_static
    def of_passes(self, passes, label, pad_mask=None):
        """(loss, mean squared error, mean squared difference), with loss = error + alpha * difference: three float32 scalars.

        Args:
            passes: [p, q, ...], the outputs of two passes or more, each [..., outputs], of any float type.
            label: numbers of the outputs' shape; for one output it may lack the last axis.
            pad_mask: bool [...] or [..., outputs], True = padding or an unknown label, which counts for nothing.
        """
        label, pad_mask = checked_targets(passes, label, pad_mask)
        label, *outputs = [_without_padding(values.astype("float32"), pad_mask) for values in (label, *passes)]
        error = _mean([_masked_mean((output - label) ** 2, pad_mask) for output in outputs])
        difference = _mean([_masked_mean((p - q) ** 2, pad_mask) for p, q in combinations(outputs, 2)])
        return self._with_loss(error, difference)


def _log_probabilities(logits, pad_mask):
    logits = _without_padding(logits.astype("float32"), pad_mask)
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
    if reduction == "sum":
        return _masked_sum(divergence, pad_mask)
    mean = _masked_mean(divergence, pad_mask)
    return mean if reduction == "batchmean" else mean / _classes(logits)


def _mean_nll(log_p, label, pad_mask, label_smoothing, weight):
    label = _without_padding(label, pad_mask)
    nll = _negative_mean(log_p, label, label_smoothing, log_p)
    if weight is None:
        return _masked_mean(nll, pad_mask)
    share = -_negative_mean(weight.expand_as(log_p), label, label_smoothing, log_p)
    return _masked_sum(nll * share, pad_mask) / _masked_sum(share, pad_mask).clip(min=1e-30)


def _negative_mean(values, label, label_smoothing, log_p):
    """Minus the mean of the classes' values [..., classes] by the label, smoothed over the classes that log_p allows: [...]."""
    if label.is_floating_point():
        negative_mean = -(label * paddle.where(label > 0, values, paddle.zeros_like(values))).sum(axis=-1)
    else:
        no_class = label < 0  # which Paddle would count from the last one; to raise an error would be to wait for the device
        index = paddle.where(no_class, paddle.zeros_like(label), label).unsqueeze(-1)
        negative_mean = -paddle.take_along_axis(values, index, axis=-1).squeeze(-1)
        negative_mean = paddle.where(no_class, paddle.full_like(negative_mean, math.nan), negative_mean)
    if label_smoothing > 0:
        possible = log_p > -math.inf
        spread = paddle.where(possible, values, paddle.zeros_like(values)).sum(axis=-1) / possible.astype("float32").sum(-1)
        negative_mean = (1 - label_smoothing) * negative_mean - label_smoothing * spread
    return negative_mean


def _binary_cross_entropy(logits, label):
    return -(label * F.log_sigmoid(logits) + (1 - label) * F.log_sigmoid(-logits))


def _symmetric_binary_kl(p, q):
    """1/2 [KL(P||Q) + KL(Q||P)] of P = sigmoid(p) and its complement, which is 1/2 (P - Q) (p - q)."""
    # P (1 - Q) - Q (1 - P) instead of P - Q, of which nothing would be left where both are nearly 1
    return 0.5 * (F.sigmoid(p) * F.sigmoid(-q) - F.sigmoid(q) * F.sigmoid(-p)) * (p - q)


def _without_padding(values, pad_mask):
    """Zeros in the padding, before anything is computed, so that not even a NaN there reaches the gradient."""
    if pad_mask is None:
        return values
    padding = pad_mask if pad_mask.ndim == values.ndim else pad_mask.unsqueeze(-1)
    return paddle.where(padding, paddle.zeros_like(values), values)


def _masked_sum(values, pad_mask):
    return _without_padding(values, pad_mask).sum()


def _masked_mean(values, pad_mask):
    return _masked_sum(values, pad_mask) / _positions(values, pad_mask)


def _positions(values, pad_mask):
    """The number of unmasked positions, at least 1, so that an all-padding batch gives 0 and not NaN."""
    if pad_mask is not None:
        return (~pad_mask).astype("float32").sum().clip(min=1.0)
    if -1 in values.shape:
        return paddle.numel(values).astype("float32").clip(min=1.0)
    return max(math.prod(values.shape), 1)


def _classes(logits):
    known = logits.shape[-1]
    return paddle.shape(logits)[-1].astype("float32") if known == -1 else known


def _mean(values):
    return sum(values[1:], values[0]) / len(values) if len(values) > 1 else values[0]
