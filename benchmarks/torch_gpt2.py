"""The independent side of the comparisons for language modelling: transformers' GPT-2; nothing here uses the package."""

import itertools
import re

import torch

PLACES = [  # a name in rdrop_paddle: in transformers
    (r"embedding\.weight", "transformer.wte.weight"),
    (r"decoder\.embed_positions", "transformer.wpe.weight"),
    (r"decoder\.layers\.(\d+)\.self_attn\.out_proj\.(.*)", r"transformer.h.\1.attn.c_proj.\2"),
    (r"decoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"transformer.h.\1.ln_1.\2"),
    (r"decoder\.layers\.(\d+)\.fc1\.(.*)", r"transformer.h.\1.mlp.c_fc.\2"),
    (r"decoder\.layers\.(\d+)\.fc2\.(.*)", r"transformer.h.\1.mlp.c_proj.\2"),
    (r"decoder\.layers\.(\d+)\.final_layer_norm\.(.*)", r"transformer.h.\1.ln_2.\2"),
    (r"decoder\.layer_norm\.(.*)", r"transformer.ln_f.\1"),
]
FUSED = r"decoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(.*)"


def build_gpt2(*, vocabulary, layers, embed_dim, ffn_dim, num_heads, max_length):
    """A GPT2LMHeadModel in eval mode with random weights; dropout is injected, see `inject_masks`."""
    from transformers import GPT2Config, GPT2LMHeadModel  # large

    sizes = dict(n_layer=layers, n_embd=embed_dim, n_inner=ffn_dim, n_head=num_heads, n_positions=max_length)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **sizes)).eval()


@torch.no_grad()
def load(model, arrays):
    """Copy {name as in rdrop_paddle: array}."""
    for name, array in arrays.items():
        _read(model, name, lambda parameter: parameter).copy_(torch.from_numpy(array))


def in_paddle_layout(model, names, read):
    """{name as in rdrop_paddle: array} of `read(parameter)`, the parameter or its gradient."""
    return {name: _read(model, name, lambda parameter: torch.as_tensor(read(parameter))).numpy() for name in names}


def _read(model, name, read):
    if fused := re.fullmatch(FUSED, name):
        layer, letter, kind = fused.groups()
        whole = read(model.get_parameter(f"transformer.h.{layer}.attn.c_attn.{kind}"))
        return whole.chunk(3, dim=-1)["qkv".index(letter)]
    place = next(match.expand(place) for pattern, place in PLACES if (match := re.fullmatch(pattern, name)))
    return read(model.get_parameter(place))


def inject_masks(model, mask):
    """Multiply by `mask(site, x)` where dropout sits, before the layers and behind each part of a layer; sites count from 0."""
    site = itertools.count()
    _mask_output(model.transformer.drop, mask, next(site))
    for layer in model.transformer.h:
        _mask_output(layer.attn.resid_dropout, mask, next(site))
        _mask_output(layer.mlp.dropout, mask, next(site))


def _mask_output(layer, mask, site):
    layer.register_forward_hook(lambda layer, inputs, found: found * mask(site, found))
