"""BART's tensors in Hugging Face's files to this project's names; and what its config.json tells.

Linear layers are [out, in] there. The first two rows of its position tables stand for no position: the first one is row 2.
"""

import re

import numpy as np

from ..errors import UserError
from ..weights.loading import SourceWeights
from ..weights.naming import renamed
from . import claims

OFFSET = 2
TABLE = "source_embedding.weight"
_LAYER = r"((?:en|de)coder\.layers\.\d+\."
NAMES = [
    (r"shared\.weight|(?:en|de)coder\.embed_tokens\.weight|lm_head\.weight", TABLE),
    (r"((?:en|de)coder)\.embed_positions\.weight", r"\1.embed_positions"),
    (r"((?:en|de)coder)\.layernorm_embedding\.(weight|bias)", r"\1.embedding_norm.\2"),
    (_LAYER + r"(?:self|encoder)_attn\.(?:q|k|v|out)_proj\.(?:weight|bias))", r"\1"),
    (_LAYER + r"(?:(?:self|encoder)_attn_|final_)layer_norm\.(?:weight|bias))", r"\1"),
    (_LAYER + r"fc[12]\.(?:weight|bias))", r"\1"),
]
_PRODUCT = r".*(?:_proj|fc[12])\.weight"
IMPLIED = dict(norm="post", positions="learned", scaled=False, embedding_norm=True, tying="all")  # by the tensors' names
ONLY = {  # what BARTs here can be, by its name in a config.json
    "model_type": ("bart",),
    "activation_function": ("gelu", "relu"),
    "scale_embedding": (False,),
    "normalize_before": (False,),
    "add_final_layer_norm": (False,),
    "tie_word_embeddings": (True,),
}


def from_bart(container, arrays, sha256, path):
    """SourceWeights of {name: array} under Hugging Face's names, without the prefix `model.`, or None where it has none such.

    Raises:
        UserError: a bias of the logits that is not zero, or tables of embeddings that differ.
    """
    if "decoder.layernorm_embedding.weight" not in arrays:
        return None
    weights = SourceWeights(f"Hugging Face BART {'.bin' if container == 'torch' else f'.{container}'}", sha256)
    for source, array in arrays.items():
        name = renamed(NAMES, source)
        if source == "final_logits_bias":
            if np.any(array):
                raise UserError(
                    f"{path}: {source} is not zero, and BARTs here, as those that were published, have no such bias"
                )
            weights.dropped[source] = "zero, which adds nothing to the logits"
        elif name is None:
            weights.unknown.append(source)
        elif name == TABLE and name in weights.tensors:
            if not np.array_equal(array, weights.tensors[name]):
                raise UserError(f"{path}: {source} is not {weights.made[name][1]}, and BART's embeddings are one table")
            weights.dropped[source] = "the table of the embeddings, tied"
        elif name.endswith("embed_positions"):
            weights.add(name, array[OFFSET:], "loaded", f"{source} from row {OFFSET} on,")
        elif re.fullmatch(_PRODUCT, name):
            weights.add(name, array.T, "transposed", source)
        else:
            weights.add(name, array, "loaded", source)
    return weights


def implied(path, width):
    """What weights under these names are, as claims.py gives it."""
    return claims.implied(path, width, "BART", IMPLIED, activation="gelu")


def _settings(config):
    return dict(
        IMPLIED,
        encoder_layers=config.get("encoder_layers"),
        decoder_layers=config.get("decoder_layers"),
        embed_dim=config.get("d_model"),
        ffn_dim=_of_both_sides(config, "ffn_dim"),
        num_heads=_of_both_sides(config, "attention_heads"),
        max_length=config.get("max_position_embeddings"),
        activation=config.get("activation_function"),
    )


def _of_both_sides(config, key):
    encoders, decoders = (config.get(f"{side}_{key}") for side in ("encoder", "decoder"))
    if encoders != decoders:
        told = f"encoder_{key} is {encoders} and decoder_{key} {decoders} in its config.json"
        raise UserError(f"{told}, and BARTs here have the same on both sides")
    return encoders


BART = claims.Foreign("BARTs here", ONLY, _settings)
