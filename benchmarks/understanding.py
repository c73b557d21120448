"""What speed.py needs to know of understanding; torch_understanding.py is the torch side of its comparison."""

import numpy as np

from rdrop_paddle.config import data_root
from rdrop_paddle.text.encoder_sizes import with_numbers
from rdrop_paddle.text.labelled import read_split
from rdrop_paddle.text.wordpiece import read_wordpiece
from rdrop_paddle.weights.loading import find_weights


def model_numbers(config):
    """{name: number or word} of the config's model, with the numbers that its name stands for."""
    return {
        name: value for name, value in vars(with_numbers(config.model)).items() if name not in ("name", "weights", "tokenizer")
    }


def read(config, split):
    """(tokens, their ids of each example of a split, their types, labels), by the code of the package."""
    tokens = read_wordpiece(find_weights(config.model.tokenizer or config.model.weights, data_root()))
    labelled = read_split(config.data, split)
    encoded = tokens.encode(labelled.texts, labelled.pairs, max_length=config.data.max_length)
    if labelled.classes is None:
        return tokens, encoded.ids, encoded.types, np.asarray(labelled.labels, "float32")
    return tokens, encoded.ids, encoded.types, np.asarray([labelled.classes.index(label) for label in labelled.labels])


def flop_of_position(config):
    """Floating point operations of the matrix products in a forward for an example of the mean length of the training data.

    Two for each multiplication; without padding, and without those of attention itself and of the head, a few percent.
    Training takes three times that.
    """
    _, ids, *_ = read(config, "train")
    model = with_numbers(config.model)
    return np.mean([*map(len, ids)]) * 2 * model.layers * (4 * model.embed_dim**2 + 2 * model.embed_dim * model.ffn_dim)
