"""What speed.py needs to know of translation; torch_translation.py is the torch side of its comparison."""

from rdrop_paddle.text.sizes import with_numbers


def flop_of_position(config):
    """Floating point operations of the matrix products in a forward for a target token and one of the source beside it.

    Two for each multiplication; those of attention itself, a few percent for sentences of tens of tokens, are left out.
    Training takes three times that.
    """
    model = with_numbers(config.model)
    feed_forward = 2 * model.embed_dim * model.ffn_dim
    encoder_layer = 4 * model.embed_dim**2 + feed_forward
    decoder_layer = 8 * model.embed_dim**2 + feed_forward
    projection = model.embed_dim * config.data.vocabulary_size
    return 2 * (model.encoder_layers * encoder_layer + model.decoder_layers * decoder_layer + projection)
