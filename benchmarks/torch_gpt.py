"""A GPT in plain torch for comparisons of speed: norms first, GELU, sinusoidal positions, output tied, fused attention.

With the structure of the official R-Drop code: one forward of the doubled batch, the loss from log-probabilities.
"""

import math

import torch.nn.functional as F
from torch import nn

from .torch_transformer import sinusoids


class Gpt(nn.Module):
    """Tokens [N, T] to hidden states [N, T, D]; `project` gives their logits."""

    def __init__(self, *, vocabulary, layers, embed_dim, ffn_dim, num_heads, drop_rate, attention_drop_rate, max_length):
        super().__init__()
        self.scale, self.drop_rate = math.sqrt(embed_dim), drop_rate
        self.embedding = nn.Embedding(vocabulary, embed_dim)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        self.register_buffer("positions", sinusoids(max_length, embed_dim))
        numbers = (embed_dim, ffn_dim, num_heads, drop_rate, attention_drop_rate)
        self.layers = nn.ModuleList([Layer(*numbers) for _ in range(layers)])
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens):
        x = self.embedding(tokens) * self.scale + self.positions[: tokens.shape[1]]
        x = F.dropout(x, self.drop_rate, self.training)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def project(self, hidden):
        return hidden @ self.embedding.weight.T


class Layer(nn.Module):
    def __init__(self, embed_dim, ffn_dim, num_heads, drop_rate, attention_drop_rate):
        super().__init__()
        self.num_heads, self.drop_rate, self.attention_drop_rate = num_heads, drop_rate, attention_drop_rate
        self.qkv, self.out = nn.Linear(embed_dim, 3 * embed_dim), nn.Linear(embed_dim, embed_dim)
        self.fc1, self.fc2 = nn.Linear(embed_dim, ffn_dim), nn.Linear(ffn_dim, embed_dim)
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)

    def forward(self, x):
        heads = [t.unflatten(-1, [self.num_heads, -1]).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1)]
        rate = self.attention_drop_rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True, dropout_p=rate)  # [N, H, T, D/H]
        x = x + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.drop_rate, self.training)
        return x + F.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))), self.drop_rate, self.training)


def loss_of(model, tokens, labels, *, passes, alpha):
    """The mean over the positions with labels, halved as in rdrop_paddle; only those are projected."""
    keep = labels >= 0
    hidden = model(tokens.repeat(passes, 1))
    log_probabilities = F.log_softmax(model.project(hidden[keep.repeat(passes, 1)]), dim=-1)  # [passes * positions, V]
    label = labels[keep]
    ce = -log_probabilities.gather(-1, label.repeat(passes)[:, None]).mean()
    if passes == 1:
        return ce
    p, q = log_probabilities.chunk(2)
    kl = sum(F.kl_div(a, b, reduction="sum", log_target=True) for a, b in ((p, q), (q, p))) / 2 / len(label)
    return ce + alpha * kl
