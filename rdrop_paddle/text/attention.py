"""Multi-head attention, arXiv 1706.03762, with fairseq's parameter names and initialisation.

Training and encoding take Paddle's fused attention but for a CPU, where that adds masks and drops slowly (benchmarks/NOTES.md):
there, and for the one query of a step of decoding everywhere, it is written out as products over the heads.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers import Dropout, Linear, attention, on_cpu, repeated

# Added to a score it leaves no weight, on a CPU 1e-28, where Paddle's softmax ends. It is finite in float16 too, as is a row
# where all is masked.
MASKED = -1e4


def keep_bias(keep):
    """What to add to the scores so that only keys that are True in `keep` [N, S] are attended to: float32 [N, 1, 1, S]."""
    return ((~keep).astype("float32") * MASKED).unsqueeze([1, 2])


def causal_bias(queries, keys):
    """What to add so that none of the last `queries` of `keys` positions sees a later one: float32 [1, 1, T, S]."""
    return paddle.triu(paddle.full([1, 1, queries, keys], MASKED), 1 + keys - queries)


class Attention(nn.Layer):
    def __init__(self, embed_dim, num_heads, drop_rate):
        super().__init__()
        self.num_heads = num_heads
        # the three as one matrix, as fairseq has it: Xavier's bound divided by the square root of 2
        self.q_proj, self.k_proj, self.v_proj = (linear(embed_dim, embed_dim, 3 * embed_dim) for _ in range(3))
        self.out_proj = linear(embed_dim, embed_dim)
        self.dropout = Dropout(drop_rate)

    def forward(self, x, memory, bias=None, causal=False):
        """x [N, T, D] looks at memory [M, S, D]: [N, T, D].

        Args:
            bias: added to the scores, [B, 1, 1, S], see `keep_bias`.
            causal: each position looks at itself and those before it alone, instead of `bias`; T must be S.

        N may be a multiple of M and of B: of passes that share them, the first pass first.
        """
        key, value = (repeated(t, x.shape[0] // memory.shape[0]) for t in (self.k_proj(memory), self.v_proj(memory)))
        if bias is not None:
            bias = repeated(bias, x.shape[0] // bias.shape[0])
        if on_cpu(key):
            bias = causal_bias(x.shape[1], memory.shape[1]) if causal else bias
            return self.attend(x, self.heads(key), self.heads(value), bias)
        query, key, value = (self._parted(t) for t in (self.q_proj(x), key, value))
        if bias is not None:  # Paddle's kernels do not all stretch it over the queries
            bias = bias.astype(query.dtype).expand([-1, -1, x.shape[1], -1])
        rate = self.dropout.p if self.training else 0.0
        mixed = attention(query, key, value, bias, drop_rate=rate, causal=causal)  # [N, T, H, D/H]
        return self.out_proj(mixed.flatten(2))

    def attend(self, x, key, value, bias=None):
        """x [N, T, D] looks at keys and values [N, H, S, D/H]: [N, T, D]."""
        weights = self.dropout(self.weights(x, key, bias))
        mixed = paddle.matmul(weights, value)  # [N, H, T, D/H]
        return self.out_proj(mixed.transpose([0, 2, 1, 3]).flatten(2))

    def weights(self, x, key, bias=None):
        """How much each position of x [N, T, D] looks at each key [N, H, S, D/H]: [N, H, T, S]; the last axis sums to 1."""
        scores = paddle.matmul(self.heads(self.q_proj(x)) * key.shape[-1] ** -0.5, key, transpose_y=True)
        if bias is not None:  # a sum that stretches an operand takes twenty times longer on a CPU than stretching it before
            scores = scores + bias.astype(scores.dtype).expand(scores.shape)
        return F.softmax(scores)

    def keys_and_values(self, memory):
        """The keys and values of memory [N, S, D], [N, H, S, D/H] each."""
        return self.heads(self.k_proj(memory)), self.heads(self.v_proj(memory))

    def heads(self, x):
        """[N, L, D] -> [N, H, L, D/H]"""
        return self._parted(x).transpose([0, 2, 1, 3])

    def _parted(self, x):
        # 0: as it is, also where a program does not know the length
        return x.reshape([0, 0, self.num_heads, x.shape[-1] // self.num_heads])


def linear(fan_in, fan_out, bound_fan_out=None):
    """A Linear with Xavier's uniform weights, as if it had `bound_fan_out` outputs, and no bias at first."""
    uniform = nn.initializer.XavierUniform(fan_in=fan_in, fan_out=bound_fan_out or fan_out)
    return Linear(fan_in, fan_out, weight_attr=paddle.ParamAttr(initializer=uniform))
