"""R-Drop's loss as a config asks for it: of logits, of hidden states before a projection to a large vocabulary, or of
numbers."""

import paddle
import paddle.nn.functional as F

from ..fused_linear_loss import FusedLinearRDropLoss, fused_linear_cross_entropy
from ..loss import RDropLoss, RDropRegressionLoss, cross_entropy


class Criterion:
    """The loss of one micro-batch by the sections `rdrop` and `train` of a Config: of one pass the cross entropy alone."""

    def __init__(self, config):
        rdrop, self.label_smoothing = config.rdrop, config.train.label_smoothing
        self.passes = rdrop.passes
        settings = dict(label_smoothing=self.label_smoothing, stop_target_gradient=rdrop.stop_target_gradient)
        self.of_two = RDropLoss(rdrop.alpha, rdrop.reduction, **settings)

    def __call__(self, logits, labels, pad_mask=None):
        """(loss, cross entropy, KL, positions): float32 scalars, the first three means over the unmasked positions.

        Args:
            logits: [passes * N, ..., classes], the first pass first.
            labels: of one pass, see loss.cross_entropy.
            pad_mask: bool [N, ...], True = padding, or None.
        """
        with paddle.amp.auto_cast(enable=False):
            positions = paddle.full([], labels.size, "float32") if pad_mask is None else (~pad_mask).astype("float32").sum()
            if self.passes > 1:
                return (*self.of_two.terms(*logits.chunk(2), labels, pad_mask), positions)
            ce = cross_entropy(logits, labels, pad_mask, label_smoothing=self.label_smoothing)
            return ce, ce, paddle.zeros_like(ce), positions


class FusedLinearCriterion:
    """Criterion for hidden states and the weight of their projection, whose logits are never held, see fused_linear_loss.py."""

    def __init__(self, config):
        rdrop, self.label_smoothing = config.rdrop, config.train.label_smoothing
        self.passes = rdrop.passes
        settings = dict(label_smoothing=self.label_smoothing, stop_target_gradient=rdrop.stop_target_gradient)
        self.of_two = FusedLinearRDropLoss(rdrop.alpha, rdrop.reduction, **settings)

    def __call__(self, hidden, weight, labels, pad_mask):
        """(loss, cross entropy, KL, positions) as Criterion gives them.

        Args:
            hidden: [passes * N, ..., D], the first pass first.
            weight: [classes, D].
            labels, pad_mask: of one pass, [N, ...].
        """
        positions = (~pad_mask).astype("float32").sum()
        if self.passes > 1:
            return (*self.of_two.terms(*hidden.chunk(2), weight, labels, pad_mask), positions)
        ce = fused_linear_cross_entropy(hidden, weight, labels, pad_mask, label_smoothing=self.label_smoothing)
        return ce, ce, paddle.zeros_like(ce), positions


class RegressionCriterion:
    """Criterion for numbers: squared errors in the place of the cross entropy, and of the KL squared differences."""

    def __init__(self, config):
        self.passes = config.rdrop.passes
        self.loss = RDropRegressionLoss(config.rdrop.alpha)

    def __call__(self, outputs, labels):
        """(loss, mean squared error, mean squared difference, positions) as Criterion gives them.

        Args:
            outputs: [passes * N, 1], the first pass first.
            labels: of one pass, [N], numbers.
        """
        with paddle.amp.auto_cast(enable=False):
            positions = paddle.full([], labels.size, "float32")
            if self.passes > 1:
                return (*self.loss.terms(*outputs.chunk(2), labels), positions)
            error = F.mse_loss(outputs.astype("float32").squeeze(-1), labels)
            return error, error, paddle.zeros_like(error), positions
