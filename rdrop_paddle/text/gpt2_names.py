"""GPT-2's tensors in Hugging Face's files to this project's names; and what its config.json tells.

Its Conv1D layers are [in, out] as Paddle's own, queries, keys and values side by side.
"""

import re

import numpy as np

from ..weights.loading import SourceWeights
from ..weights.naming import renamed
from . import claims

_LAYER = r"h\.(\d+)\."
NAMES = [
    (r"wte\.weight", "embedding.weight"),
    (r"wpe\.weight", "decoder.embed_positions"),
    (_LAYER + r"ln_1\.(weight|bias)", r"decoder.layers.\1.self_attn_layer_norm.\2"),
    (_LAYER + r"attn\.c_attn\.(weight|bias)", r"decoder.layers.\1.self_attn.{}_proj.\2"),
    (_LAYER + r"attn\.c_proj\.(weight|bias)", r"decoder.layers.\1.self_attn.out_proj.\2"),
    (_LAYER + r"ln_2\.(weight|bias)", r"decoder.layers.\1.final_layer_norm.\2"),
    (_LAYER + r"mlp\.c_fc\.(weight|bias)", r"decoder.layers.\1.fc1.\2"),
    (_LAYER + r"mlp\.c_proj\.(weight|bias)", r"decoder.layers.\1.fc2.\2"),
    (r"ln_f\.(weight|bias)", r"decoder.layer_norm.\1"),
    (r"lm_head\.weight", "output.weight"),
]
_DROPPED = [(_LAYER + r"attn\.(?:bias|masked_bias)", "hides later positions, no weight")]
ANCHOR = r"(?:transformer\.)?wte\.weight"
IMPLIED = dict(norm="pre", positions="learned", scaled=False)  # by the names of the tensors
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
}
ONLY = {  # what language models here can be, by its name in a config.json
    "model_type": ("gpt2",),
    "activation_function": tuple(ACTIVATIONS),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def from_gpt2(container, arrays, sha256):
    """SourceWeights of {name: array} under Hugging Face's names, or None where it has no such layers."""
    short = {re.sub(r"^transformer\.", "", name): name for name in arrays}
    if not any(re.match(_LAYER, name) for name in short):
        return None
    weights = SourceWeights(f"Hugging Face GPT-2 {'.bin' if container == 'torch' else f'.{container}'}", sha256)
    for shortened, source in short.items():
        array, why, name = arrays[source], renamed(_DROPPED, shortened), renamed(NAMES, shortened)
        if name == "output.weight" and "wte.weight" in short and np.array_equal(array, arrays[short["wte.weight"]]):
            why = "the table of the embeddings, tied"
        if why:
            weights.dropped[source] = why
        elif name is None:
            weights.unknown.append(source)
        elif "{}" in name:
            for letter, part in zip("qkv", np.split(array, 3, axis=-1)):
                weights.add(name.format(letter), part, "split", source)
        else:
            weights.add(name, array, "loaded", source)
    return weights


def implied(path, width):
    """What weights under these names are, as claims.py gives it."""
    return claims.implied(path, width, "GPT-2", IMPLIED, activation="gelu_tanh")


def _settings(config):
    width, name = config.get("n_embd"), config.get("activation_function")
    return dict(
        IMPLIED,
        layers=config.get("n_layer"),
        embed_dim=width,
        ffn_dim=config.get("n_inner") or (4 * width if width else None),
        num_heads=config.get("n_head"),
        max_length=config.get("n_positions"),
        activation=ACTIVATIONS.get(name),
        tied=config.get("tie_word_embeddings"),
    )


GPT2 = claims.Foreign("the language models here", ONLY, _settings)
