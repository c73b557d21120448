"""BERT, arXiv 1810.04805: an encoder of texts and of pairs of them with a linear head, of the layers of the Transformer here.

Dropout sits where BERT has it: after the embeddings' norm, on attention weights, on what each part of a layer adds to its
input, and before the head. Padding stands at the end of a text. The forward gives logits and nothing else; loss and alpha live
in loss.py.
"""

import functools

import paddle
from paddle import nn

from ..errors import UserError
from ..layers import Dropout, LayerNorm, Linear, repeated
from .attention import keep_bias
from .transformer_layers import EncoderLayer, check_choices, through_layers

POOLINGS = ("pooler", "mean")
DEVIATION = 0.02  # of initial weights


class TransformerEncoder(nn.Layer):
    """Tokens [N, L], integers, to logits [N, classes].

    Args:
        vocabulary: how many tokens there are.
        padding: the index of the token that fills up the shorter texts of a batch.
        types: how many kinds of texts an input is made of: BERT's are the first and the second of a pair.
        max_length: of an input, in tokens.
        pooling: what the head sees: "pooler", BERT's dense layer and tanh over the first token, or "mean", the mean of all
            tokens but padding.
        drop_rate: of embeddings, of residual connections and before the head.
        attention_drop_rate: of attention weights.
        epsilon: of the norms.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        *,
        vocabulary,
        classes,
        padding=0,
        layers=12,
        embed_dim=768,
        ffn_dim=3072,
        num_heads=12,
        types=2,
        max_length=512,
        pooling="pooler",
        drop_rate=0.1,
        attention_drop_rate=0.1,
        epsilon=1e-12,
    ):
        super().__init__()
        check_choices(embed_dim, num_heads, pooling=(pooling, POOLINGS))
        self.padding, self.max_length, self.pooling = padding, max_length, pooling
        self.token_embedding = nn.Embedding(vocabulary, embed_dim)
        self.position_embedding = nn.Embedding(max_length, embed_dim)
        self.type_embedding = nn.Embedding(types, embed_dim)
        self.embedding_norm = LayerNorm(embed_dim, epsilon=epsilon)
        self.dropout = Dropout(drop_rate)
        of_layer = dict(
            embed_dim=embed_dim,
            ffn_dim=ffn_dim,
            num_heads=num_heads,
            norm="post",
            activation="gelu",
            epsilon=epsilon,
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            activation_drop_rate=0.0,
        )
        self.layers = nn.LayerList([EncoderLayer(**of_layer) for _ in range(layers)])
        self.pooler = Linear(embed_dim, embed_dim) if pooling == "pooler" else None
        self.head_dropout = Dropout(drop_rate)
        self.head = Linear(embed_dim, classes)
        self.apply(_initialise)

    def forward(self, tokens, types=None, passes=1, *, shared_blocks=0, recompute=False):
        """Logits [passes * N, classes], the first pass first; each pass has dropout masks of its own.

        What lies before the first dropout is computed once, and with `shared_blocks` so are the first layers and the
        dropout before and in them. `recompute` keeps only the layers' inputs for the backward pass, which computes the
        rest again.

        Args:
            types: which of the texts of an input each token is of, [N, L], integers; None: all are of the first.

        Raises:
            UserError: inputs of more tokens than the model has positions.
        """
        outputs = None if self.pooler is None else 1  # it sees the first token alone
        hidden = self.hidden(tokens, types, passes, outputs=outputs, shared_blocks=shared_blocks, recompute=recompute)
        return self.head(self.head_dropout(self.pooled(hidden, tokens, passes)))

    def hidden(self, tokens, types=None, passes=1, *, outputs=None, shared_blocks=0, recompute=False):
        """What the last layer gives, [passes * N, L, D], or with `outputs` of the first so many tokens; else as the logits."""
        context = [keep_bias(tokens != self.padding)]
        ways = dict(passes=passes, shared=shared_blocks, recompute=recompute)
        *layers, last = self.layers
        layers.append(functools.partial(last, outputs=outputs))
        return through_layers(self.embed(tokens, types), self.dropout, layers, context, **ways)

    @paddle.jit.not_to_static  # Paddle 2 would translate the check, whose length it does not know
    def embed(self, tokens, types=None):
        """The normed sum of the embeddings of tokens, positions and types: [N, L, D]."""
        if tokens.shape[1] > self.max_length:
            raise UserError(f"a text of {tokens.shape[1]} tokens is longer than model.max_length {self.max_length}")
        types = paddle.zeros_like(tokens) if types is None else types
        positions = paddle.ones_like(tokens).cumsum(axis=1) - 1  # also where a program does not know the length
        x = self.token_embedding(tokens) + self.type_embedding(types) + self.position_embedding(positions)
        return self.embedding_norm(x)

    def pooled(self, hidden, tokens, passes=1):
        """What the head sees of hidden states [passes * N, L, D] of tokens [N, L]: [passes * N, D]."""
        if self.pooler is not None:
            return paddle.tanh(self.pooler(hidden[:, 0]))
        keep = (tokens != self.padding).astype(hidden.dtype)  # [N, L]
        weights = repeated(keep / keep.sum(axis=1, keepdim=True).clip(min=1), passes)
        return paddle.matmul(weights.unsqueeze(1), hidden).squeeze(1)


def _initialise(layer):
    if isinstance(layer, (Linear, nn.Embedding)):
        nn.initializer.Normal(0.0, DEVIATION)(layer.weight)
    if isinstance(layer, Linear):
        nn.initializer.Constant(0.0)(layer.bias)
