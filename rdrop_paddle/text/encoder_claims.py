"""What is told beside a BERT's tensors, by its config.json or this project's header, held against an encoder."""

import math

from ..errors import UserError
from ..weights import belongings

MODEL = "model"  # what belongs to weights, by its name
IN_CONFIG = {  # the key of the section `model`: its name in the config.json of transformers and of PaddleNLP
    "layers": "num_hidden_layers",
    "embed_dim": "hidden_size",
    "ffn_dim": "intermediate_size",
    "num_heads": "num_attention_heads",
    "types": "type_vocab_size",
    "max_length": "max_position_embeddings",
    "epsilon": "layer_norm_eps",
}
ONLY = {  # what the encoders here can be, by its name there
    "model_type": ("bert",),
    "hidden_act": ("gelu", "gelu_python"),  # the exact one
    "position_embedding_type": ("absolute",),
    "pool_act": ("tanh",),
    "is_decoder": (False,),
}


def settings_of(model):
    """{key of the section `model`: JSON value} of a TransformerEncoder, which its weights are kept with."""
    layer = model.layers[0]
    return dict(
        layers=len(model.layers),
        embed_dim=model.token_embedding.weight.shape[1],
        ffn_dim=layer.fc1.weight.shape[1],
        num_heads=layer.self_attn.num_heads,
        types=model.type_embedding.weight.shape[0],
        max_length=model.max_length,
        epsilon=model.embedding_norm._epsilon,
        pooling=model.pooling,
    )


def check(path, model, *, any_pooling=False):
    """Hold what the weights at `path` tell against a TransformerEncoder.

    Args:
        any_pooling: whether their head may have seen something else, as to train another one on them.

    Raises:
        UserError: something differs; the message names the settings to give, or what the encoders here have not.
    """
    differences, advice, here = [], [], settings_of(model)
    for told, source in _told(path):
        for key, value in here.items():
            if told.get(key) is None or (any_pooling and key == "pooling"):
                continue
            if not _is_same(told[key], value):
                differences.append(f"model.{key} is {value} here and {told[key]} in {source}")
                advice.append(f"model.{key}={told[key]}")
    if differences:
        raise UserError(
            f"{path} is of a model with other settings: {'; '.join(differences)}. Give {' '.join(advice)}, or move away what "
            "lies beside it and belongs to other weights"
        )


def _told(path):
    """[({key of the section `model`: value}, source)] of all that tells something of the weights."""
    told, found = [], belongings.find(path, MODEL)
    if found and isinstance(found.value, dict):
        told.append(found)
    found = belongings.read_beside(path, "config.json")
    if found and isinstance(found.value, dict):
        for name, known in ONLY.items():
            if (value := found.value.get(name)) is not None and value not in known:
                raise UserError(f"{path}: {name} is {value} in {found.source}, and the encoders here have {known[0]} alone")
        told.append(({key: found.value.get(name) for key, name in IN_CONFIG.items()}, found.source))
    return told


def _is_same(told, here):
    numbers = all(isinstance(value, (int, float)) for value in (told, here))
    return math.isclose(told, here, rel_tol=1e-6) if numbers else told == here
