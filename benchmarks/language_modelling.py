"""What speed.py needs to know of language modelling; torch_language_modelling.py is the torch side of its comparison."""

from rdrop_paddle.text.language_model_sizes import with_numbers


def flop_of_position(config):
    """Floating point operations of the matrix products in a forward for a token.

    Two for each multiplication; those of attention itself are left out. Training takes three times that.
    """
    model = with_numbers(config.model)
    layer = 4 * model.embed_dim**2 + 2 * model.embed_dim * model.ffn_dim
    return 2 * (model.layers * layer + model.embed_dim * (config.data.vocabulary_size or 0))
