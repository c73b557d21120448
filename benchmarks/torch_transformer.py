"""Transformers in plain torch for comparisons of speed: tables tied, torch's fused attention.

With the structure of the official R-Drop code: one forward of the doubled batch, the loss from log-probabilities.
"""

import functools
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from rdrop_paddle import UserError

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": functools.partial(F.gelu, approximate="tanh")}

PLACES = {  # a layer's parts by the names of rdrop_paddle, and which share they have of those that are one here
    "self_attn.q_proj": ("qkv", 0),
    "self_attn.k_proj": ("qkv", 1),
    "self_attn.v_proj": ("qkv", 2),
    "self_attn.out_proj": ("out", 0),
    "self_attn_layer_norm": ("norm1", 0),
    "encoder_attn.q_proj": ("query", 0),
    "encoder_attn.k_proj": ("key_value", 0),
    "encoder_attn.v_proj": ("key_value", 1),
    "encoder_attn.out_proj": ("source_out", 0),
    "encoder_attn_layer_norm": ("source_norm", 0),
    "final_layer_norm": ("norm2", 0),
}


class Transformer(nn.Module):
    """Source and target tokens [N, S], [N, T] to hidden states [N, T, D], the norms behind; `project` gives their logits."""

    def __init__(
        self, *, vocabulary, padding, encoder_layers, decoder_layers, embed_dim, ffn_dim, num_heads, activation, positions,
        scaled, embedding_norm, drop_rate, attention_drop_rate, max_length,
    ):  # fmt: skip
        super().__init__()
        self.padding, self.scale = padding, math.sqrt(embed_dim) if scaled else 1.0
        self.embedding = nn.Embedding(vocabulary, embed_dim, padding_idx=padding)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        numbers = (embed_dim, ffn_dim, num_heads, activation, drop_rate, attention_drop_rate)
        encoder = [Layer(*numbers) for _ in range(encoder_layers)]
        decoder = [Layer(*numbers, causal=True, looks_at_source=True) for _ in range(decoder_layers)]
        settings = (embed_dim, positions, max_length, drop_rate, embedding_norm)
        self.encoder, self.decoder = Stack(encoder, *settings), Stack(decoder, *settings)

    def forward(self, source, target_in):
        keep = (source != self.padding)[:, None, None, :]  # [N, 1, 1, S]
        memory, x = (self.embedding(tokens) * self.scale for tokens in (source, target_in))
        return self.decoder(x, memory=self.encoder(memory, keep=keep), keep=keep)

    def project(self, hidden):
        return hidden @ self.embedding.weight.T


class LanguageModel(nn.Module):
    """Tokens [N, T] to hidden states [N, T, D], the norms first; `project` gives their logits."""

    def __init__(
        self, *, vocabulary, layers, embed_dim, ffn_dim, num_heads, activation, positions, scaled, drop_rate,
        attention_drop_rate, max_length,
    ):  # fmt: skip
        super().__init__()
        self.scale = math.sqrt(embed_dim) if scaled else 1.0
        self.embedding = nn.Embedding(vocabulary, embed_dim)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        numbers = (embed_dim, ffn_dim, num_heads, activation, drop_rate, attention_drop_rate)
        stack = [Layer(*numbers, norm_first=True, causal=True) for _ in range(layers)]
        self.decoder = Stack(stack, embed_dim, positions, max_length, drop_rate)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens):
        return self.norm(self.decoder(self.embedding(tokens) * self.scale))

    def project(self, hidden):
        return hidden @ self.embedding.weight.T


class Stack(nn.Module):
    """Embeddings [N, L, D] with their positions through the layers of one side; `given` as these take it."""

    def __init__(self, layers, embed_dim, positions, max_length, drop_rate, embedding_norm=False):
        super().__init__()
        self.drop_rate = drop_rate
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(max_length, embed_dim) * embed_dim**-0.5)
        else:
            self.register_buffer("positions", sinusoids(max_length, embed_dim))
        self.norm = nn.LayerNorm(embed_dim) if embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(layers)

    def forward(self, x, **given):
        x = F.dropout(self.norm(x + self.positions[: x.shape[1]]), self.drop_rate, self.training)
        for layer in self.layers:
            x = layer(x, **given)
        return x


class Layer(nn.Module):
    """[N, L, D] -> [N, L, D]: attention to itself, to the source `memory` where it looks there, and a feed-forward part.

    `keep`, bool [N, 1, 1, S], is False where the source is padding.
    """

    def __init__(
        self, embed_dim, ffn_dim, num_heads, activation, drop_rate, attention_drop_rate, *, norm_first=False, causal=False,
        looks_at_source=False,
    ):  # fmt: skip
        super().__init__()
        self.num_heads, self.drop_rate, self.attention_drop_rate = num_heads, drop_rate, attention_drop_rate
        self.norm_first, self.causal, self.looks_at_source = norm_first, causal, looks_at_source
        self.activation = ACTIVATIONS[activation]
        self.qkv, self.out = nn.Linear(embed_dim, 3 * embed_dim), nn.Linear(embed_dim, embed_dim)
        self.fc1, self.fc2 = nn.Linear(embed_dim, ffn_dim), nn.Linear(ffn_dim, embed_dim)
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        if looks_at_source:
            self.query, self.key_value = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, 2 * embed_dim)
            self.source_out, self.source_norm = nn.Linear(embed_dim, embed_dim), nn.LayerNorm(embed_dim)

    def forward(self, x, memory=None, keep=None):
        mask = dict(is_causal=True) if self.causal else dict(attn_mask=keep)
        x = self._added(x, self.norm1, lambda x: self.out(self._attention(*self.qkv(x).chunk(3, dim=-1), **mask)))
        if self.looks_at_source:
            x = self._added(x, self.source_norm, lambda x: self.source_out(self._over_source(x, memory, keep)))
        return self._added(x, self.norm2, lambda x: self.fc2(self.activation(self.fc1(x))))

    def _over_source(self, x, memory, keep):
        return self._attention(self.query(x), *self.key_value(memory).chunk(2, dim=-1), attn_mask=keep)

    def _attention(self, *parts, **mask):
        heads = [part.unflatten(-1, [self.num_heads, -1]).transpose(1, 2) for part in parts]  # [N, H, L, D/H]
        rate = self.attention_drop_rate if self.training else 0.0
        return F.scaled_dot_product_attention(*heads, dropout_p=rate, **mask).transpose(1, 2).flatten(2)

    def _added(self, x, norm, part):
        added = F.dropout(part(norm(x) if self.norm_first else x), self.drop_rate, self.training)
        return x + added if self.norm_first else norm(x + added)


def loss_of(model, inputs, labels, ignored, *, passes, alpha, label_smoothing):
    """The mean over the positions whose label is not `ignored`, halved as in rdrop_paddle; only those are projected.

    `inputs` are what the model is given of one pass, [N, ...] each.
    """
    keep = labels != ignored
    hidden = model(*(tokens.repeat(passes, 1) for tokens in inputs))
    log_probabilities = F.log_softmax(model.project(hidden[keep.repeat(passes, 1)]), dim=-1)  # [passes * positions, V]
    label = labels[keep]
    ce = -log_probabilities.gather(-1, label.repeat(passes)[:, None]).mean()
    if label_smoothing > 0:
        ce = (1 - label_smoothing) * ce - label_smoothing * log_probabilities.mean()
    if passes == 1:
        return ce
    p, q = log_probabilities.chunk(2)
    kl = sum(F.kl_div(a, b, reduction="sum", log_target=True) for a, b in ((p, q), (q, p))) / 2 / len(label)
    return ce + alpha * kl


def training(model, batches, ignored, config, rank, ranks):
    """A function that makes an update of the next micro-batches, arrays of which the last are the labels."""
    from .torch_reference import build_optimizer, step

    train = config.train
    optimizer = build_optimizer(model.train().parameters(), train)
    rdrop = dict(passes=config.rdrop.passes, alpha=config.rdrop.alpha, label_smoothing=train.label_smoothing)

    def once():
        micro_batches = [[torch.from_numpy(array) for array in next(batches)] for _ in range(train.accumulation)]
        positions = [int((labels != ignored).sum()) for *_, labels in micro_batches]
        for (*inputs, labels), count in list(zip(micro_batches, positions))[rank::ranks]:
            (loss_of(model, inputs, labels, ignored, **rdrop) * count / sum(positions)).backward()
        step(model, optimizer, train.clip_norm)
        return sum(positions), 0.0

    return once


def settings_of(numbers, **alone):
    """{name: value} of the section `model` with its numbers, without those that this side has with the values `alone` only.

    Raises:
        UserError: one of these has another value.
    """
    if other := [name for name, value in alone.items() if getattr(numbers, name) != value]:
        raise UserError(f"torch's side has model.{other[0]}={alone[other[0]]} alone")
    return {name: value for name, value in vars(numbers).items() if name not in ("name", "weights", *alone)}


@torch.no_grad()
def load(model, arrays):
    """Copy {name as in rdrop_paddle: array}."""
    for name, array in arrays.items():
        if match := re.fullmatch(r"(.*\.layers\.\d+)\.(.*)\.(weight|bias)", name):
            layer, part, kind = match.groups()
            place, share = PLACES.get(part, (part, 0))
            whole, array = model.get_parameter(f"{layer}.{place}.{kind}"), array.T
            whole[share * len(array) : (share + 1) * len(array)] = torch.from_numpy(array)
        else:
            plain = re.sub(r"^source_", "", name).replace("embed_positions", "positions").replace("embedding_norm", "norm")
            model.get_parameter(plain.replace("decoder.layer_norm", "norm")).copy_(torch.from_numpy(array))


def sinusoids(count, width):
    """The table of positions from 1 on, [count, width]: sines, then cosines."""
    frequencies = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(1, 1 + count)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
