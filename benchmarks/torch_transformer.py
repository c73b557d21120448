"""The Transformer in plain torch for comparisons of speed: norms behind, ReLU, tables tied, torch's fused attention.

With the structure of the official R-Drop code: one forward of the doubled batch, the loss from log-probabilities.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Transformer(nn.Module):
    """Source and target tokens [N, S], [N, T] to hidden states [N, T, D]; `project` gives their logits."""

    def __init__(
        self, *, vocabulary, padding, encoder_layers, decoder_layers, embed_dim, ffn_dim, num_heads, drop_rate, max_length
    ):
        super().__init__()
        self.padding, self.scale, self.drop_rate = padding, math.sqrt(embed_dim), drop_rate
        self.embedding = nn.Embedding(vocabulary, embed_dim, padding_idx=padding)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        self.register_buffer("positions", sinusoids(max_length, embed_dim))
        numbers = (embed_dim, ffn_dim, num_heads, drop_rate)
        self.encoder = nn.ModuleList([Layer(*numbers, looks_at_source=False) for _ in range(encoder_layers)])
        self.decoder = nn.ModuleList([Layer(*numbers, looks_at_source=True) for _ in range(decoder_layers)])

    def forward(self, source, target_in):
        keep = (source != self.padding)[:, None, None, :]  # [N, 1, 1, S]
        memory, x = self._embed(source), self._embed(target_in)
        for layer in self.encoder:
            memory = layer(memory, keep=keep)
        for layer in self.decoder:
            x = layer(x, memory=memory, keep=keep)
        return x

    def project(self, hidden):
        return hidden @ self.embedding.weight.T

    def _embed(self, tokens):
        x = self.embedding(tokens) * self.scale + self.positions[: tokens.shape[1]]
        return F.dropout(x, self.drop_rate, self.training)


class Layer(nn.Module):
    def __init__(self, embed_dim, ffn_dim, num_heads, drop_rate, looks_at_source):
        super().__init__()
        self.num_heads, self.drop_rate = num_heads, drop_rate
        self.qkv, self.out = nn.Linear(embed_dim, 3 * embed_dim), nn.Linear(embed_dim, embed_dim)
        self.fc1, self.fc2 = nn.Linear(embed_dim, ffn_dim), nn.Linear(ffn_dim, embed_dim)
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.looks_at_source = looks_at_source
        if looks_at_source:
            self.query, self.key_value = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, 2 * embed_dim)
            self.source_out, self.source_norm = nn.Linear(embed_dim, embed_dim), nn.LayerNorm(embed_dim)

    def forward(self, x, memory=None, keep=None):
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        mask = dict(is_causal=True) if self.looks_at_source else dict(attn_mask=keep)
        x = self.norm1(x + self._dropped(self.out(self._attention(query, key, value, **mask))))
        if self.looks_at_source:
            mixed = self._attention(self.query(x), *self.key_value(memory).chunk(2, dim=-1), attn_mask=keep)
            x = self.source_norm(x + self._dropped(self.source_out(mixed)))
        return self.norm2(x + self._dropped(self.fc2(F.relu(self.fc1(x)))))

    def _attention(self, *parts, **mask):
        heads = [part.unflatten(-1, [self.num_heads, -1]).transpose(1, 2) for part in parts]  # [N, H, L, D/H]
        return F.scaled_dot_product_attention(*heads, **mask).transpose(1, 2).flatten(2)

    def _dropped(self, x):
        return F.dropout(x, self.drop_rate, self.training)


def loss_of(model, source, target_in, labels, *, passes, alpha, label_smoothing):
    """The mean over the unpadded positions, halved as in rdrop_paddle; only those positions are projected."""
    keep = labels != model.padding
    hidden = model(source.repeat(passes, 1), target_in.repeat(passes, 1))
    log_probabilities = F.log_softmax(model.project(hidden[keep.repeat(passes, 1)]), dim=-1)  # [passes * positions, V]
    label = labels[keep]
    nll = -log_probabilities.gather(-1, label.repeat(passes)[:, None]).mean()
    ce = (1 - label_smoothing) * nll - label_smoothing * log_probabilities.mean()
    if passes == 1:
        return ce
    p, q = log_probabilities.chunk(2)
    kl = sum(F.kl_div(a, b, reduction="sum", log_target=True) for a, b in ((p, q), (q, p))) / 2 / len(label)
    return ce + alpha * kl


def sinusoids(count, width):
    """The table of positions, [count, width]: sines, then cosines."""
    frequencies = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(count)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
