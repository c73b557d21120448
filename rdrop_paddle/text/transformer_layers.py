"""The layers of Transformers: encoders, decoders and language models, with fairseq's parameter names."""

import functools

import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute as recompute_in_backward

from ..errors import UserError
from ..layers import Dropout, LayerNorm, repeated
from .attention import Attention, causal_bias, linear

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": functools.partial(F.gelu, approximate=True)}  # GPT-2's the last
NORMS = ("post", "pre")


class EncoderLayer(nn.Layer):
    """[N, S, D] -> [N, S, D]: self-attention and a feed-forward part."""

    def __init__(
        self,
        *,
        embed_dim,
        ffn_dim,
        num_heads,
        norm,
        activation,
        epsilon,
        drop_rate,
        attention_drop_rate,
        activation_drop_rate,
    ):
        super().__init__()
        self.norm_first = norm == "pre"
        self.activation = ACTIVATIONS[activation]
        self.self_attn = Attention(embed_dim, num_heads, attention_drop_rate)
        self.self_attn_layer_norm = LayerNorm(embed_dim, epsilon=epsilon)
        self.self_attn_dropout = Dropout(drop_rate)
        self.fc1, self.fc2 = linear(embed_dim, ffn_dim), linear(ffn_dim, embed_dim)
        self.activation_dropout = Dropout(activation_drop_rate)
        self.final_layer_norm = LayerNorm(embed_dim, epsilon=epsilon)
        self.final_dropout = Dropout(drop_rate)

    def forward(self, x, bias, outputs=None):
        """`bias` hides the padding, see `keep_bias`; with `outputs` the first so many positions alone, [N, outputs, D]."""
        memory = None
        if outputs is not None:
            memory, x = self.self_attn_layer_norm(x) if self.norm_first else x, x[:, :outputs]

        def part(x):
            return self.self_attn(x, x if memory is None else memory, bias)

        return self.feed_forward(self.residual(x, part, self.self_attn_layer_norm, self.self_attn_dropout))

    def feed_forward(self, x):
        def part(x):
            return self.fc2(self.activation_dropout(self.activation(self.fc1(x))))

        return self.residual(x, part, self.final_layer_norm, self.final_dropout)

    def residual(self, x, part, norm, dropout):
        if self.norm_first:
            return x + dropout(part(norm(x)))
        return norm(x + dropout(part(x)))


class CausalLayer(EncoderLayer):
    """[N, T, D] -> [N, T, D]: attention of each position to itself and those before, and a feed-forward part."""

    def forward(self, x):
        return self.feed_forward(self.over_itself(x))

    def step(self, x, cache):
        """The next T positions x [R, T, D] of R rows; the LayerCache takes them in."""
        return self.feed_forward(self.over_itself(x, cache))

    def over_itself(self, x, cache=None):
        """The attention to itself of all positions, or of those behind what the LayerCache holds, which takes them in."""

        def part(x):
            if cache is None:
                return self.self_attn(x, x, causal=True)
            key, value = cache.extended(*self.self_attn.keys_and_values(x))
            _, _, positions, _ = key.shape
            return self.self_attn.attend(x, key, value, causal_bias(x.shape[1], positions) if x.shape[1] > 1 else None)

        return self.residual(x, part, self.self_attn_layer_norm, self.self_attn_dropout)


class DecoderLayer(CausalLayer):
    """[N, T, D] -> [N, T, D]: attention to itself and what is before, attention to the source, a feed-forward part."""

    def __init__(self, **settings):
        super().__init__(**settings)
        embed_dim = settings["embed_dim"]
        self.encoder_attn = Attention(embed_dim, settings["num_heads"], settings["attention_drop_rate"])
        self.encoder_attn_layer_norm = LayerNorm(embed_dim, epsilon=settings["epsilon"])
        self.encoder_attn_dropout = Dropout(settings["drop_rate"])

    def forward(self, x, memory, bias):
        """`memory` is the encoder's output [N, S, D], or [M, S, D] as `Attention` takes it, and `bias` hides its padding."""
        return self._onwards(self.over_itself(x), lambda x: self.encoder_attn(x, memory, bias))

    def step(self, x, cache, bias):
        """The next T positions x [R, T, D] of R rows, the same number for each source; the LayerCache takes them in."""

        def over_source(x):
            key, value = cache.source
            rows_of_a_source = x.reshape([key.shape[0], -1, x.shape[-1]])  # [N, R / N * T, D]: they share its keys
            return self.encoder_attn.attend(rows_of_a_source, key, value, bias).reshape(x.shape)

        return self._onwards(self.over_itself(x, cache), over_source)

    def _onwards(self, x, over_source):
        x = self.residual(x, over_source, self.encoder_attn_layer_norm, self.encoder_attn_dropout)
        return self.feed_forward(x)


def check_choices(embed_dim, num_heads, **choices):
    """Raises a UserError when one of {name: (value, those known)} is unknown, or the heads do not divide the width."""
    for name, (value, known) in choices.items():
        if value not in known:
            raise UserError(f"{name} is {value!r}: give one of {', '.join(known)}")
    if embed_dim % num_heads:
        raise UserError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")


def through_layers(x, dropout, layers, context, *, passes, shared, recompute):
    """Embeddings [N, L, D] through their dropout and the layers, [passes * N, L, D], the first pass first.

    Args:
        context: what each layer is given beside them.
        shared: so many layers, and the dropout before and in them, are computed once for all passes.
        recompute: keep only the layers' inputs for the backward pass, which computes the rest again.
    """
    x = dropout(x if shared else repeated(x, passes))
    for index, layer in enumerate(layers):
        # DataParallel does not see the gradients of Paddle's reentrant way
        x = recompute_in_backward(layer, x, *context, use_reentrant=False) if recompute else layer(x, *context)
        if index + 1 == shared:
            x = repeated(x, passes)
    return x
