"""The Transformer, arXiv 1706.03762: encoder and decoder, with fairseq's parameter names, initialisation and dropout.

Dropout sits where fairseq has it: on the sum of token and position embeddings and on what each part of a layer adds to its
input; the rates of attention weights and of the feed-forward part's hidden units are settings of their own. Padding stands at
the end of a sentence. The forward gives logits and nothing else; loss and alpha live in loss.py.
"""

import math

import numpy as np
import paddle
from paddle import nn

from ..errors import UserError
from ..layers import Dropout, LayerNorm
from .attention import keep_bias
from .decoding_cache import DecodingCache
from .transformer_layers import ACTIVATIONS, NORMS, DecoderLayer, EncoderLayer, check_choices, through_layers

POSITIONS = ("sinusoidal", "learned")
TYING = ("all", "decoder", "none")


class Transformer(nn.Layer):
    """Source and target tokens [N, S], [N, T], integers, to logits [N, T, target_vocabulary].

    Args:
        source_vocabulary, target_vocabulary: how many tokens each side has.
        padding: the index of the token that fills up the shorter sentences of a batch, on both sides.
        norm: "post", after each residual connection, or "pre", before each part, with one more at the end of each side.
        activation: "relu", "gelu", the exact one, or "gelu_tanh", its approximation.
        positions: "sinusoidal" or "learned".
        scaled: embeddings are multiplied by the square root of their width before the positions are added; not so in BART.
        embedding_norm: a norm behind the sum of embeddings and positions of each side, before its dropout, as BART has it.
        tying: "all", one table for both sides' embeddings and the output; "decoder", one for the target's and the output;
            "none".
        drop_rate, attention_drop_rate, activation_drop_rate: of embeddings and residual connections; of attention
            weights; of the feed-forward parts' hidden units.
        max_length: of a sentence on either side, in tokens.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        *,
        source_vocabulary,
        target_vocabulary,
        padding,
        encoder_layers=6,
        decoder_layers=6,
        embed_dim=512,
        ffn_dim=1024,
        num_heads=4,
        norm="post",
        activation="relu",
        positions="sinusoidal",
        scaled=True,
        embedding_norm=False,
        tying="all",
        drop_rate=0.3,
        attention_drop_rate=0.0,
        activation_drop_rate=0.0,
        max_length=1024,
    ):
        super().__init__()
        choices = dict(activation=(activation, ACTIVATIONS), positions=(positions, POSITIONS), tying=(tying, TYING))
        check_choices(embed_dim, num_heads, norm=(norm, NORMS), **choices)
        if tying == "all" and source_vocabulary != target_vocabulary:
            raise UserError(f"tying is all, but the source has {source_vocabulary} tokens and the target {target_vocabulary}")
        self.padding, self.max_length = padding, max_length
        of_layer = dict(
            embed_dim=embed_dim,
            ffn_dim=ffn_dim,
            num_heads=num_heads,
            norm=norm,
            activation=activation,
            epsilon=1e-5,
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            activation_drop_rate=activation_drop_rate,
        )
        of_stack = (embed_dim, norm, positions, padding, max_length, drop_rate, scaled, embedding_norm)
        self.encoder = Stack([EncoderLayer(**of_layer) for _ in range(encoder_layers)], *of_stack)
        self.decoder = Stack([DecoderLayer(**of_layer) for _ in range(decoder_layers)], *of_stack)
        self.source_embedding = embedding(source_vocabulary, embed_dim, padding)
        self.target_embedding = None if tying == "all" else embedding(target_vocabulary, embed_dim, padding)
        self.output = embedding(target_vocabulary, embed_dim) if tying == "none" else None

    def forward(self, source, target_in, passes=1, *, shared_blocks=0, recompute=False, project=True):
        """Logits [passes * N, T, target_vocabulary], the first pass first; each pass has dropout masks of its own.

        Args:
            target_in: the target shifted by one: a first token of the caller's choice, then the target without its last.
            shared_blocks: so many layers, the encoder's first, are computed once with the dropout in and before them. With
                none, what lies before the first dropout, the sums of embeddings, still is. As many as the encoder has
                share the whole encoder.
            recompute: keep only the layers' inputs for the backward pass, which computes the rest again.
            project: False gives what the projection to logits would be given, [passes * N, T, D].
        """
        hidden = self.hidden(source, target_in, passes, shared_blocks=shared_blocks, recompute=recompute)
        return self.project(hidden) if project else hidden

    def hidden(self, source, target_in, passes=1, *, shared_blocks=0, recompute=False):
        """What the decoder gives to the output's projection, [passes * N, T, D]; arguments as for the logits."""
        memory = self.encode(source, passes, shared_blocks=shared_blocks, recompute=recompute)
        x = self.decoder.embed(target_in, self._target_table)
        shared = max(shared_blocks - len(self.encoder.layers), 0)
        return self.decoder(x, memory, self._source_bias(source), passes=passes, shared=shared, recompute=recompute)

    def encode(self, source, passes=1, *, shared_blocks=0, recompute=False):
        """The encoder's output [passes * N, S, D], or [N, S, D] where the passes share all of it."""
        x = self.encoder.embed(source, self.source_embedding)
        passes = passes if shared_blocks < len(self.encoder.layers) else 1
        return self.encoder(x, self._source_bias(source), passes=passes, shared=shared_blocks, recompute=recompute)

    def project(self, hidden):
        """Hidden states [..., D] to logits [..., target_vocabulary]."""
        return paddle.matmul(hidden, self.output_weight, transpose_y=True)

    @property
    def output_weight(self):
        """The projection of hidden states to logits, [target_vocabulary, D]; it has no bias."""
        return (self._target_table if self.output is None else self.output).weight

    def start(self, source):
        """A DecodingCache for `step`, with one row for each of the sources [N, S]."""
        memory = self.encode(source)
        sources = [layer.encoder_attn.keys_and_values(memory) for layer in self.decoder.layers]
        return DecodingCache(sources, self._source_bias(source))

    def step(self, tokens, cache):
        """Logits [R, T, target_vocabulary] of what follows each of the next tokens [R, T], which the cache takes in."""
        return self.project(self.decoder.step(tokens, self._target_table, cache, cache.source_bias))

    def _source_bias(self, source):
        return keep_bias(source != self.padding)

    @property
    def _target_table(self):
        return self.source_embedding if self.target_embedding is None else self.target_embedding


class Stack(nn.Layer):
    """The layers of one side, its positions before them and, where the layers have their norms first, a norm behind them.

    `scaled` and `embedding_norm` as in Transformer.
    """

    def __init__(self, layers, embed_dim, norm, positions, padding, max_length, drop_rate, scaled=True, embedding_norm=False):
        super().__init__()
        self.max_length = max_length
        self.scale = math.sqrt(embed_dim) if scaled else 1.0
        if positions == "learned":
            attribute = paddle.ParamAttr(initializer=_normal(embed_dim))
            self.embed_positions = self.create_parameter([max_length, embed_dim], attr=attribute)
        else:
            table = sinusoids(padding + 1 + max_length, embed_dim)[padding + 1 :]  # fairseq counts from there
            self.register_buffer("embed_positions", paddle.to_tensor(table), persistable=False)
        self.embedding_norm = LayerNorm(embed_dim) if embedding_norm else nn.Identity()
        self.dropout = Dropout(drop_rate)
        self.layers = nn.LayerList(layers)
        self.layer_norm = LayerNorm(embed_dim) if norm == "pre" else nn.Identity()

    def embed(self, tokens, table, first=0):
        """The sum of the embeddings of tokens [N, L] in `table` and of the positions from `first` on: [N, L, D].

        Raises:
            UserError: there are not so many positions.
        """
        last = first + tokens.shape[1]
        if last > self.max_length:
            raise UserError(f"a sentence of {last} tokens is longer than model.max_length {self.max_length}")
        x = table(tokens) * self.scale if self.scale != 1 else table(tokens)
        return self.embedding_norm(x + self.embed_positions[first:last].expand(x.shape))

    def forward(self, x, *context, passes=1, shared=0, recompute=False):
        """[N, L, D] -> [passes * N, L, D]; the first `shared` layers and the dropout before them are of all passes."""
        x = through_layers(x, self.dropout, self.layers, context, passes=passes, shared=shared, recompute=recompute)
        return self.layer_norm(x)

    def step(self, tokens, table, cache, *context):
        """The next tokens [R, T], which the DecodingCache takes in, through the layers: [R, T, D]; `context` as theirs."""
        x = self.embed(tokens, table, first=cache.length)
        for layer, cache_of_layer in zip(self.layers, cache.layers):
            x = layer.step(x, cache_of_layer, *context)
        cache.length += tokens.shape[1]
        return self.layer_norm(x)


def sinusoids(count, width):
    """Position embeddings [count, width], float32, as fairseq and tensor2tensor have them.

    The first half of a row are sines of the position times frequencies from 1 to 1 / 10000, the second half their cosines;
    where the width is odd, the last number is 0. The paper interleaves them and ends just above 1 / 10000.
    """
    half = width // 2
    frequencies = np.exp(-math.log(10000) / max(half - 1, 1) * np.arange(half))
    angles = np.arange(count)[:, None] * frequencies
    table = np.concatenate([np.sin(angles), np.cos(angles), np.zeros([count, width % 2])], axis=1)
    return table.astype("float32")


def embedding(count, width, padding=None):
    """A table of `count` rows as fairseq initialises it, of which that of `padding` is zero at first."""
    table = nn.Embedding(count, width, weight_attr=paddle.ParamAttr(initializer=_normal(width)))
    if padding is not None and table.weight._is_initialized():  # it is not under LazyGuard, which Paddle 2's Embedding forgets
        with paddle.no_grad():
            table.weight[padding] = 0.0
    return table


def _normal(width):
    return nn.initializer.Normal(0.0, width**-0.5)
