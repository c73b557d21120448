"""What speed.py needs to know of summarisation; torch_summarisation.py is the torch side of its comparison."""

from rdrop_paddle.text.summaries import read_split

from . import translation


def flop_of_position(config):
    """Floating point operations of the matrix products in a forward for a token of a summary and its share of the text's.

    As translation's, and those of attention itself are left out here too, which grow with the square of the text's length. A
    text has as many tokens for each of its summary's as it has characters.
    """
    pairs, _ = read_split(config.data, "train")
    return translation.flop_of_position(config, sum(map(len, pairs.source)) / sum(map(len, pairs.target)))
