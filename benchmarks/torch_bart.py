"""The independent side of the comparisons for translation and summarisation, in torch: transformers' BART and its relative
Marian; nothing here uses the package.

Their parameters have the names of this package's, but for NAMES.
"""

import itertools

import torch

NAMES = {"source_embedding": "shared", "embedding_norm": "layernorm_embedding", "embed_positions": "embed_positions.weight"}
OFFSET = 2  # BART's first row of positions that is of one


def build_marian(**sizes):
    """A MarianMTModel in eval mode, its three tables one, with random weights; dropout is injected, see `inject_masks`."""
    from transformers import MarianConfig, MarianMTModel  # large

    return MarianMTModel(_config(MarianConfig, scale_embedding=True, **sizes)).eval()


def build_bart(**sizes):
    """A BartForConditionalGeneration as `build_marian` makes a Marian."""
    from transformers import BartConfig, BartForConditionalGeneration

    return BartForConditionalGeneration(_config(BartConfig, scale_embedding=False, **sizes)).eval()


def _config(
    kind, *, vocabulary, padding, end, embed_dim, ffn_dim, num_heads, encoder_layers, decoder_layers, activation, max_length,
    scale_embedding,
):  # fmt: skip
    sides = {}
    for side, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        sides |= {f"{side}_layers": layers, f"{side}_ffn_dim": ffn_dim, f"{side}_attention_heads": num_heads}
    return kind(
        vocab_size=vocabulary,
        pad_token_id=padding,
        eos_token_id=end,
        forced_eos_token_id=end,
        decoder_start_token_id=end,
        d_model=embed_dim,
        max_position_embeddings=max_length,
        activation_function=activation,
        scale_embedding=scale_embedding,
        dropout=0.0,
        **sides,
    )


@torch.no_grad()
def load(model, arrays):
    """Copy {name as in rdrop_paddle: array}."""
    for name, array in arrays.items():
        _as_here(name, place_of(model, name)).copy_(torch.from_numpy(array))


@torch.no_grad()
def load_positions(model, table):
    """Copy the table of positions, of which Marian counts and spaces others."""
    for side in (model.model.encoder, model.model.decoder):
        side.embed_positions.weight.copy_(torch.from_numpy(table))


def in_paddle_layout(model, names, read):
    """{name as in rdrop_paddle: array} of `read(parameter)`, the parameter or its gradient."""
    return {name: _as_here(name, read(place_of(model, name))) for name in names}


def _as_here(name, array):
    """A view of a parameter as this package has it: matrices [in, out], which torch stores as [out, in]; positions from 0."""
    if name.endswith(("proj.weight", "fc1.weight", "fc2.weight")):
        return array.T
    return array[OFFSET:] if name.endswith("embed_positions") else array


def place_of(model, name):
    """The model's parameter of a name in rdrop_paddle."""
    for here, there in NAMES.items():
        name = name.replace(here, there)
    return model.model.get_parameter(name)


def logits(model, source, target_in):
    """[N, T, vocabulary] of tokens [N, S], [N, T]."""
    return model(
        input_ids=source, attention_mask=(source != model.config.pad_token_id).long(), decoder_input_ids=target_in
    ).logits


def inject_masks(model, mask):
    """Multiply by `mask(site, x)` where dropout sits, before the layers of each side and behind each part of a layer.

    The sites are counted from 0, in the order of computation.
    """
    site = itertools.count()
    for side in (model.model.encoder, model.model.decoder):
        _mask_input(side.layers[0], mask, next(site))
        for layer in side.layers:
            _mask_output(layer.self_attn, mask, next(site))
            if hasattr(layer, "encoder_attn"):
                _mask_output(layer.encoder_attn, mask, next(site))
            _mask_output(layer.fc2, mask, next(site))


def _mask_input(layer, mask, site):
    layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0] * mask(site, inputs[0]), *inputs[1:]))


def _mask_output(layer, mask, site):
    def masked(layer, inputs, found):
        if isinstance(found, tuple):  # an attention gives its weights too
            return found[0] * mask(site, found[0]), *found[1:]
        return found * mask(site, found)

    layer.register_forward_hook(masked)
