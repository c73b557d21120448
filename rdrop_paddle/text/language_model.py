"""A language model: the Transformer's decoder without a source, as GPT-2 and fairseq's transformer_lm have it.

Dropout sits where both have it: on the sum of token and position embeddings, on attention weights and on what each part of a
layer adds to its input. The forward gives logits and nothing else; loss and alpha live in loss.py.
"""

import paddle
from paddle import nn

from .decoding_cache import DecodingCache
from .transformer import POSITIONS, Stack, embedding
from .transformer_layers import ACTIVATIONS, NORMS, CausalLayer, check_choices

BEFORE_SINUSOIDS = 0  # sinusoidal positions are counted from 1


class LanguageModel(nn.Layer):
    """Tokens [N, T], integers, to logits [N, T, vocabulary] of what follows each of them.

    Args:
        vocabulary: how many tokens there are.
        norm: "pre", before each part of a layer and once more at the end, or "post", after each residual connection.
        activation: "gelu", the exact one, "gelu_tanh", GPT-2's, or "relu".
        positions: "sinusoidal" or "learned".
        tied: the output has the table of the embeddings.
        scaled: embeddings are multiplied by the square root of their width before the positions are added, as fairseq does
            and GPT-2 does not.
        drop_rate, attention_drop_rate, activation_drop_rate: of embeddings and residual connections; of attention
            weights; of the feed-forward parts' hidden units.
        max_length: of a text, in tokens.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        *,
        vocabulary,
        layers=12,
        embed_dim=768,
        ffn_dim=3072,
        num_heads=12,
        norm="pre",
        activation="gelu",
        positions="sinusoidal",
        tied=True,
        scaled=True,
        drop_rate=0.1,
        attention_drop_rate=0.1,
        activation_drop_rate=0.0,
        max_length=1024,
    ):
        super().__init__()
        choices = dict(norm=(norm, NORMS), activation=(activation, ACTIVATIONS), positions=(positions, POSITIONS))
        check_choices(embed_dim, num_heads, **choices)
        self.max_length = max_length
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
        stack = [CausalLayer(**of_layer) for _ in range(layers)]
        self.decoder = Stack(stack, embed_dim, norm, positions, BEFORE_SINUSOIDS, max_length, drop_rate, scaled)
        self.embedding = embedding(vocabulary, embed_dim)
        self.output = None if tied else embedding(vocabulary, embed_dim)

    def forward(self, tokens, passes=1, *, shared_blocks=0, recompute=False, project=True):
        """Logits [passes * N, T, vocabulary], the first pass first; each pass has dropout masks of its own.

        What lies before the first dropout is computed once, and with `shared_blocks` so are the first layers and the
        dropout before and in them. `recompute` keeps only the layers' inputs for the backward pass, which computes the
        rest again. Without `project` it is what the projection would be given, [passes * N, T, D].

        Raises:
            UserError: texts of more tokens than the model has positions.
        """
        x = self.decoder.embed(tokens, self.embedding)
        hidden = self.decoder(x, passes=passes, shared=shared_blocks, recompute=recompute)
        return self.project(hidden) if project else hidden

    def project(self, hidden):
        """Hidden states [..., D] to logits [..., vocabulary]."""
        return paddle.matmul(hidden, self.output_weight, transpose_y=True)

    @property
    def output_weight(self):
        """The projection of hidden states to logits, [vocabulary, D]; it has no bias."""
        return (self.embedding if self.output is None else self.output).weight

    def start(self):
        """An empty DecodingCache for `step`."""
        return DecodingCache([None] * len(self.decoder.layers))

    def step(self, tokens, cache):
        """Logits [R, T, vocabulary] of what follows each of the next tokens [R, T], which the cache takes in."""
        return self.project(self.decoder.step(tokens, self.embedding, cache))
