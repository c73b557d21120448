"""Linear, LayerNorm, Dropout and attention: Paddle's, with the parts that are slow on a CPU computed in another way.

Measured in benchmarks/NOTES.md: Paddle's CPU kernels for the gradient of a bias, for LayerNorm's gradient and for dropout's
random numbers take longer than the matrix products beside them. Reductions are products with a vector of ones here, and masks
come from numpy's SFC64. Values are Paddle's up to float32 rounding; on other devices and in static graphs these are
Paddle's own layers.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

STEPS = 1 << 16  # dropout's rate is rounded to 1/STEPS
FUSED = {"FlashAttn": "flash", "MemoryEfficient": "memory-efficient"}  # in the name of a gradient: the attention that it is of


class Linear(nn.Linear):
    """nn.Linear, [..., in] -> [..., out]."""

    def forward(self, x):
        if self.bias is None or not on_cpu(x):
            return nn.Linear.forward(self, x)  # not super(): Paddle 2 cannot translate it for a static graph
        if not paddle.is_grad_enabled():
            return paddle.matmul(x, self.weight).add_(self.bias)
        return _LinearOnCpu.apply(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm over the last axis."""

    def forward(self, x):
        if not on_cpu(x) or not paddle.is_grad_enabled():
            return nn.LayerNorm.forward(self, x)
        return _LayerNormOnCpu.apply(x, self.weight, self.bias, self._epsilon)


class Dropout(nn.Dropout):
    """nn.Dropout: zeros at rate p, the rest divided by 1 - p. Its masks are a function of Paddle's generator's state."""

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        if self.p == 1 or not on_cpu(x):
            return nn.Dropout.forward(self, x)
        return _DropoutOnCpu.apply(x, self.p)


def attention(query, key, value, mask=None, *, drop_rate=0.0, causal=False):
    """softmax(query key^T / sqrt(width) + mask) value, by the fastest way that Paddle has for device and type.

    Args:
        query: [N, Lq, heads, width], and so is the result; key and value: [N, Lk, heads, width].
        mask: what is added to the scores, floats that broadcast to [N, heads, Lq, Lk]; or None.
        drop_rate: of the softmax.
        causal: each position looks at itself and those before it alone, instead of `mask`; Lq must be Lk.
    """
    mask = None if mask is None else mask.astype(query.dtype)
    if _paddle_fuses(mask, causal):
        return F.scaled_dot_product_attention(query, key, value, mask, drop_rate, causal)
    query, key, value = (t.transpose([0, 2, 1, 3]) for t in (query, key, value))  # [N, heads, L, width]
    scores = paddle.matmul(query * query.shape[-1] ** -0.5, key, transpose_y=True)  # [N, heads, Lq, Lk]
    if causal:
        mask = paddle.triu(paddle.full(scores.shape[-2:], -1e4, scores.dtype), 1)  # finite in float16 too
    weights = F.dropout(F.softmax(scores if mask is None else scores + mask), drop_rate)
    return paddle.matmul(weights, value).transpose([0, 2, 1, 3])


def attention_backend(width, dtype):
    """What `attention` takes on this device for heads of `width` in `dtype`: "flash", "memory-efficient" or "plain"."""
    query = paddle.zeros([1, 8, 1, width], dtype)
    query.stop_gradient = False
    gradient = attention(query, query, query).grad_fn.name()  # tells in any version of Paddle what has run
    return next((kind for mark, kind in FUSED.items() if mark in gradient), "plain")


def attention_in_words(width, train):
    """`attention_backend` for the log of a run, by a TrainConfig."""
    precision = "float32" if train.amp == "off" else train.amp_dtype
    return f"{attention_backend(width, precision)} in {precision}, heads of width {width}"


def _paddle_fuses(mask, causal):
    """Whether Paddle's own attention can be called: Paddle 2's takes with a mask, or on a GPU, its flash attention whatever
    the type and the card, which has neither float32 nor cards before Ampere, and no CPU; and causal it knows no CPU either."""
    return not paddle.__version__.startswith("2.") or (mask is None and not causal and paddle.get_device() == "cpu")


class _LinearOnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return paddle.matmul(x, weight).add_(bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        x_rows, gradient_rows = _rows(x), _rows(gradient)
        of_x = paddle.matmul(gradient, weight, transpose_y=True)
        of_weight = paddle.matmul(x_rows, gradient_rows, transpose_x=True)
        return of_x, of_weight, _sum_of_rows(gradient_rows)


class _LayerNormOnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        width = x.shape[-1]
        rows, of_y = _rows(x), _rows(gradient)
        mean_of_row = paddle.full([width, 1], 1 / width, dtype=x.dtype)
        centred = rows - paddle.matmul(rows, mean_of_row)
        scale = paddle.rsqrt(paddle.matmul(centred * centred, mean_of_row) + ctx.epsilon)  # [rows, 1]
        normal = centred.multiply_(scale)
        product = of_y * normal
        of_weight, of_bias = _sum_of_rows(product), _sum_of_rows(of_y)
        weighted_mean = (weight / width).unsqueeze(-1)
        along, across = paddle.matmul(product, weighted_mean), paddle.matmul(of_y, weighted_mean)
        of_x = (of_y * weight).subtract_(across).subtract_(normal.multiply_(along)).multiply_(scale)
        return of_x.reshape(x.shape), of_weight, of_bias


class _DropoutOnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x, rate):
        keep, ctx.factor = keep_mask(x.shape, rate)
        ctx.save_for_backward(paddle.to_tensor(keep))  # a byte per element; made a float32 again, it costs next to nothing
        return x * _factors(keep, ctx.factor)

    @staticmethod
    def backward(ctx, gradient):
        (keep,) = ctx.saved_tensor()
        return gradient * _factors(keep.numpy(), ctx.factor)


def keep_mask(shape, rate):
    """(bool array of `shape`, True with probability 1 - rate; the factor that keeps the mean), from Paddle's generator."""
    threshold = min(max(round(rate * STEPS), 1), STEPS - 1)
    count = int(np.prod(shape))
    seed = paddle.randint(0, 2**31 - 1, [4]).numpy()
    words = np.random.SFC64(seed).random_raw(-(-count // 4))  # uint64, four numbers of 16 bits each
    return (words.view(np.uint16)[:count] >= threshold).reshape(shape), STEPS / (STEPS - threshold)


def _factors(keep, factor):
    """`factor` where `keep`, else 0, as a tensor."""
    scaled = np.multiply(keep, np.float32(factor))
    return paddle.utils.dlpack.from_dlpack(scaled.__dlpack__())  # shares the memory


def on_cpu(x):
    """Whether x is computed here and now on a CPU: no static graph is being built."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def repeated(x, times):
    """x [N, ...] over and over: [times * N, ...]."""
    return paddle.concat([x] * times) if times > 1 else x


def _rows(x):
    return x.reshape([-1, x.shape[-1]])


def _sum_of_rows(rows):
    ones = paddle.ones([1, rows.shape[0]], dtype=rows.dtype)
    return paddle.matmul(ones, rows).squeeze(0)
