"""What speed.py needs to know of translation; torch_translation.py is the torch side of its comparison."""

from rdrop_paddle.text.transformer_sizes import with_numbers


def flop_of_position(config, sources=1.0):
    """Floating point operations of the matrix products in a forward for a target token and so many of the source beside it.

    Two for each multiplication; those of attention itself, a few percent for sentences of tens of tokens, are left out.
    Training takes three times that.
    """
    model = with_numbers(config.model)
    square, feed_forward = model.embed_dim**2, 2 * model.embed_dim * model.ffn_dim
    of_source = model.encoder_layers * (4 * square + feed_forward) + model.decoder_layers * 2 * square  # its keys and values
    of_target = model.decoder_layers * (6 * square + feed_forward) + model.embed_dim * config.data.vocabulary_size
    return 2 * (sources * of_source + of_target)
