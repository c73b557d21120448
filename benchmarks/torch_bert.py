"""The independent side of the comparisons for understanding, in torch: transformers' BERT; nothing here uses the package."""

import itertools

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, BertConfig, BertForSequenceClassification
from transformers.masking_utils import eager_mask

PLACES = {  # in a layer, by the names of this package
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}


class Bert(BertForSequenceClassification):
    """transformers' BERT with random weights, tokens [N, L] to logits [N, classes]; `pooling` "mean" is of all but padding."""

    def __init__(
        self, *, vocabulary, classes, padding, pooling, layers, embed_dim, ffn_dim, num_heads, types, max_length, drop_rate,
        attention_drop_rate, epsilon,
    ):  # fmt: skip
        super().__init__(
            BertConfig(
                vocab_size=vocabulary,
                num_labels=classes,
                pad_token_id=padding,
                num_hidden_layers=layers,
                hidden_size=embed_dim,
                intermediate_size=ffn_dim,
                num_attention_heads=num_heads,
                type_vocab_size=types,
                max_position_embeddings=max_length,
                hidden_dropout_prob=drop_rate,
                attention_probs_dropout_prob=attention_drop_rate,
                layer_norm_eps=epsilon,
                attn_implementation="sdpa",
            )
        )
        self.pooling = pooling
        if pooling == "mean":
            self.bert.pooler = None

    def forward(self, tokens, types):
        keep = (tokens != self.config.pad_token_id).long()
        given = dict(input_ids=tokens, attention_mask=keep, token_type_ids=types)
        if self.pooling == "pooler":
            return super().forward(**given).logits
        weights = keep / keep.sum(dim=1, keepdim=True)
        pooled = (weights.unsqueeze(1) @ self.bert(**given).last_hidden_state).squeeze(1)
        return self.classifier(self.dropout(pooled))


def place_of(model, name):
    """The model's parameter of a name in rdrop_paddle."""
    part, _, kind = name.rpartition(".")
    if part.startswith("layers."):
        _, number, part = part.split(".", 2)
        return model.bert.encoder.layer[int(number)].get_parameter(f"{PLACES[part]}.{kind}")
    if part.endswith("_embedding"):
        table = {"token": "word", "type": "token_type"}.get(part.removesuffix("_embedding"), "position")
        return model.bert.embeddings.get_parameter(f"{table}_embeddings.{kind}")
    layer = {"embedding_norm": model.bert.embeddings.LayerNorm, "head": model.classifier}.get(part)
    return (layer or model.bert.pooler.dense).get_parameter(kind)


def in_paddle_layout(model, names, read):
    """{name as in rdrop_paddle: array} of `read(parameter)`, the parameter or its gradient."""
    arrays = {name: read(place_of(model, name)) for name in names}
    return {name: array.T if is_product(name, array) else array for name, array in arrays.items()}


@torch.no_grad()
def load(model, arrays):
    """Copy {name as in rdrop_paddle: array}."""
    for name, array in arrays.items():
        place_of(model, name).copy_(torch.from_numpy(array.T if is_product(name, array) else array))


def is_product(name, array):
    """Whether a parameter is a matrix that Paddle stores as [in, out] and torch as [out, in]."""
    return array.ndim == 2 and not name.endswith("_embedding.weight")


def inject_masks(model, mask):
    """Multiply by `mask(site, x)` in the places of dropout, counted from 0 in the order of computation."""
    site = itertools.count()
    model.bert.embeddings.dropout = _Masked(mask, next(site))
    for layer in model.bert.encoder.layer:
        layer.attention.self.dropout = _Masked(mask, next(site))
        layer.attention.output.dropout = _Masked(mask, next(site))
        layer.output.dropout = _Masked(mask, next(site))
    model.dropout = _Masked(mask, next(site))
    AttentionInterface.register("masked", _masked_attention)
    AttentionMaskInterface.register("masked", eager_mask)
    model.set_attn_implementation("masked")


class _Masked(nn.Module):
    p = 0.0

    def __init__(self, mask, site):
        super().__init__()
        self.mask, self.site = mask, site

    def forward(self, x):
        return x * self.mask(self.site, x)


def _masked_attention(layer, query, key, value, attention_mask, *, scaling, **_):
    """transformers' own written out, which drops through a function and not its layer: [N, H, L, D/H] to [N, L, H, D/H]."""
    scores = query @ key.transpose(2, 3) * scaling
    weights = torch.softmax(scores if attention_mask is None else scores + attention_mask, dim=-1)
    return (layer.dropout(weights) @ value).transpose(1, 2).contiguous(), weights
