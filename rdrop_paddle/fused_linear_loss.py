"""R-Drop's loss straight from hidden states, for large vocabularies: the logits of both passes are never held.

The projection to the vocabulary and the loss go through the positions in chunks, and each chunk gives its part of the gradient
while its logits are there, as Liger-Kernel and cut-cross-entropy do for the plain cross entropy. Values and gradients are those
of loss.py on `hidden @ weight.T`; memory grows with positions and with the vocabulary, but not with their product.

    criterion = FusedLinearRDropLoss(alpha=1.0, label_smoothing=0.1)
    loss = criterion(p_hidden, q_hidden, embedding.weight, label, pad_mask)

All of it is float32, under `auto_cast` too, and not for static graphs, where RDropLoss works.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from .layers import on_cpu
from .loss_arguments import check_classes, check_settings, checked_projection

CHUNK_ON_CPU, CHUNK = 1 << 21, 1 << 24  # logits of a pass that are held at once: 8 MB, so that a cache may hold them; 64 MB
FEWEST_ROWS = 128  # of a chunk, however large the vocabulary: matrix products of fewer are slow


class FusedLinearRDropLoss(nn.Layer):
    """RDropLoss of the logits `hidden @ weight.T` of two passes, without holding them.

    Args:
        alpha, reduction, label_smoothing, stop_target_gradient: see loss.RDropLoss.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(self, alpha=0.3, reduction="batchmean", label_smoothing=0.0, stop_target_gradient=False):
        super().__init__()
        check_settings(alpha=alpha, reduction=reduction, label_smoothing=label_smoothing)
        self.alpha = alpha
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.stop_target_gradient = stop_target_gradient

    def forward(self, p_hidden, q_hidden, weight, label, pad_mask=None):
        """The loss, a float32 scalar; arguments as in `terms`."""
        return self.terms(p_hidden, q_hidden, weight, label, pad_mask)[0]

    def terms(self, p_hidden, q_hidden, weight, label, pad_mask=None):
        """(loss, cross entropy, KL), with loss = cross entropy + alpha * KL: three float32 scalars.

        The gradient flows through the loss alone; the other two are for logging.

        Args:
            p_hidden, q_hidden: what the projection gets in either pass, [..., D], any float type, which the gradients have too.
            weight: of the projection, [classes, D], as an embedding has it; it may be one and have other gradients besides.
            label: integers [...] or [..., 1], for both passes.
            pad_mask: bool [...], True = padding, which is left out of all computation.

        Raises:
            UserError: a type or a shape is wrong, or a label is none of the classes; the message names the argument.
        """
        weights = dict(alpha=self.alpha, reduction=self.reduction, stop_target_gradient=self.stop_target_gradient)
        return _terms([p_hidden, q_hidden], weight, label, pad_mask, label_smoothing=self.label_smoothing, **weights)

    def extra_repr(self):
        return (
            f"alpha={self.alpha}, reduction={self.reduction}, label_smoothing={self.label_smoothing}, "
            f"stop_target_gradient={self.stop_target_gradient}"
        )


def fused_linear_cross_entropy(hidden, weight, label, pad_mask=None, *, label_smoothing=0.0):
    """loss.cross_entropy of the logits `hidden @ weight.T` without holding them, a float32 scalar in nats.

    Arguments and errors are those of `FusedLinearRDropLoss.terms`, of one pass.
    """
    check_settings(label_smoothing=label_smoothing)
    return _terms([hidden], weight, label, pad_mask, label_smoothing=label_smoothing)[0]


def _terms(passes, weight, label, pad_mask, **settings):
    """(loss, cross entropy, KL) of one pass or two."""
    label = checked_projection(passes, weight, label, pad_mask).flatten()
    rows = [hidden.reshape([-1, hidden.shape[-1]]).astype("float32") for hidden in passes]
    if pad_mask is not None:
        kept = paddle.nonzero(~pad_mask.reshape([-1])).flatten()  # Paddle 2 flattens no bool on a CPU as we set it
        label = paddle.gather(label, kept)
        # with padding alone a row that has no label: Paddle 2 has no gradient of empty tensors
        rows = [paddle.gather(values, kept if len(kept) else paddle.zeros([1], "int64")) for values in rows]
    check_classes(label, weight.shape[0])
    inputs = (weight.astype("float32"), *rows)
    wanted = [paddle.is_grad_enabled() and not tensor.stop_gradient for tensor in inputs]
    objective = _Objective(len(passes), len(label), weight.shape[0], **settings)
    with paddle.amp.auto_cast(enable=False):
        return _FusedLinearLoss.apply(*inputs, label=label, objective=objective, wanted=wanted)


class _FusedLinearLoss(PyLayer):
    """Of the projection's weight [V, D] and the rows [N, D] of each pass, float32; the gradients come with the value."""

    @staticmethod
    def forward(ctx, weight, *passes, label, objective, wanted):
        terms = paddle.zeros([2])
        of_weight, of_passes = paddle.zeros_like(weight), [[] for _ in passes]
        rows = max((CHUNK_ON_CPU if on_cpu(weight) else CHUNK) // len(weight), FEWEST_ROWS)

        def add(hidden, label):  # a function, so that nothing of a chunk is left when the next one begins
            logits = [paddle.matmul(values, weight, transpose_y=True) for values in hidden]
            *of_chunk, gradients = objective.of_chunk(logits, label, any(wanted))
            terms.add_(paddle.stack(of_chunk))
            for values, gradient, of_pass, pass_wanted in zip(hidden, gradients, of_passes, wanted[1:]):
                if wanted[0]:
                    of_weight.add_(paddle.matmul(gradient, values, transpose_x=True))
                if pass_wanted:
                    of_pass.append(paddle.matmul(gradient, weight))

        for first in range(0, len(label), rows):
            add([values[first : first + rows] for values in passes], label[first : first + rows])
        joined = [paddle.concat(of) if of else paddle.zeros_like(values) for values, of in zip(passes, of_passes)]
        ctx.gradients = [of_weight, *joined]
        ctx.wanted, ctx.unit = wanted, objective.unit
        ce, kl = terms.unbind()
        ctx.mark_non_differentiable(ce, kl)
        return ce + objective.alpha * kl, ce, kl

    @staticmethod
    def backward(ctx, of_loss, *_):
        scale = of_loss * ctx.unit
        return tuple(gradient * scale if wanted else None for gradient, wanted in zip(ctx.gradients, ctx.wanted))


class _Objective:
    """A chunk's parts of cross entropy and KL, both means or sums over all positions, and the gradients of its logits."""

    def __init__(
        self, passes, positions, classes, label_smoothing, alpha=0.0, reduction="batchmean", stop_target_gradient=False
    ):
        self.alpha, self.label_smoothing, self.stop_target_gradient = alpha, label_smoothing, stop_target_gradient
        positions = max(positions, 1)  # without any, the loss is 0
        self.ce_share = 1 / (passes * positions)
        self.kl_share = {"sum": 1, "batchmean": 1 / positions, "mean": 1 / (positions * classes)}[reduction] / 2
        self.with_kl = passes == 2 and alpha > 0
        # what the gradients are to be multiplied by in the end, which spares a product for each logit
        self.unit = alpha * self.kl_share if self.with_kl else self.ce_share

    def of_chunk(self, logits, label, wanted):
        """(cross entropy, KL, gradients / unit) of the logits [R, V] of each pass, which are overwritten.

        The KL is 0 for one pass, and there are no gradients unless they are `wanted`.
        """
        place = paddle.stack([paddle.arange(len(label), dtype=label.dtype), label], axis=-1)  # [R, 2]
        probabilities = [F.softmax(values) for values in logits]
        ce = self.ce_share * sum(self._nll(values, p, place) for values, p in zip(logits, probabilities))
        if len(logits) == 1:
            kl, gradients = paddle.zeros([]), probabilities
        else:
            kl, gradients = self._kl(*probabilities, logits[0].subtract_(logits[1]), wanted)
        return ce, kl, [self._less_label(gradient, place) for gradient in gradients] if wanted else []

    def _nll(self, logits, probabilities, place):
        """Summed over the positions."""
        at_label, p = paddle.gather_nd(logits, place), paddle.gather_nd(probabilities, place)
        if on_cpu(p) and p.min().item() > 1e-20:  # spares a pass over the logits; a GPU would have to be waited for
            nll = -p.log()
        else:  # Paddle's softmax on a CPU ends 64 below the largest
            nll = paddle.logsumexp(logits, axis=-1) - at_label
        if self.label_smoothing > 0:
            nll = nll + self.label_smoothing * (at_label - _row_sums(logits).squeeze(-1) / logits.shape[-1])
        return nll.sum()

    def _kl(self, p, q, difference, wanted):
        """(KL, gradients) of two passes of which the logits' difference is given. Row constants cancel: they need no log P."""
        p_mean, q_mean = _row_sums(p * difference), _row_sums(q * difference)
        kl = self.kl_share * (p_mean - q_mean).sum()
        if not (wanted and self.with_kl):
            return kl, [p, q]
        weight = 1 + self.ce_share / self.unit  # the cross entropy's part besides the label's
        if self.stop_target_gradient:
            return kl, [weight * p - q, weight * q - p]
        of_p = (weight - p_mean).expand_as(p).add_(difference).multiply_(p).subtract_(q)
        of_q = (weight + q_mean).expand_as(q).subtract_(difference).multiply_(q).subtract_(p)
        return kl, [of_p, of_q]

    def _less_label(self, gradient, place):
        """The cross entropy's gradient without the smoothed label yet, less that label; overwrites."""
        share = self.ce_share / self.unit
        if self.label_smoothing > 0:
            gradient.scale_(1.0, bias=-share * self.label_smoothing / gradient.shape[-1])
        at_label = paddle.full([len(place)], -share * (1 - self.label_smoothing))
        return gradient.index_put_(tuple(place.unbind(-1)), at_label, accumulate=True)


def _row_sums(values):
    return paddle.matmul(values, paddle.ones([values.shape[-1], 1]))  # [R, 1]; far faster than sum on a CPU
