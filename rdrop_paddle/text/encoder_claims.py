"""What is told beside a BERT's tensors, by its config.json or this project's header, held against an encoder."""

from . import claims

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


def _settings(config):
    return {key: config.get(name) for key, name in IN_CONFIG.items()}


BERT = claims.Foreign("the encoders here", ONLY, _settings)


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
    claims.check(path, settings_of(model), BERT, apart_from=("pooling",) if any_pooling else ())
