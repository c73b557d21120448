"""A classifier of texts as files that run without its code, see training/export.py."""

import numpy as np
from paddle.static import InputSpec

from ..training import export as exporting
from ..weights.belongings import TOKENS


def export(task, folder, weights, *, onnx=False):
    """The Checks of writing `folder`; errors as of training/export.py.

    Args:
        task: an Understanding whose model has its weights.
        weights: the WeightReport of loading them.
    """
    inputs = [InputSpec([None, None], "int64", name=name) for name in ("tokens", "types")]
    random, padding = np.random.default_rng(0), task.tokens.padding

    def made(batch):
        """Tokens and types of inputs of any length, of which the longest fills its row."""
        lengths = random.integers(2, task.config.data.max_length + 1, [batch, 1])
        places = np.arange(lengths.max())
        tokens = random.integers(0, task.tokens.size, [batch, len(places)])
        tokens[tokens == padding] = padding + 1
        kinds = (places * 2 > lengths) * (places < lengths) if task.config.data.columns[1] else places * 0 * lengths
        return [np.where(places < lengths, tokens, padding), kinds.astype("int64")]

    settings = dict(onnx=onnx, beside={TOKENS: task.tokens.to_json()})
    return exporting.export(task.model, folder, describe(task, weights), inputs, made, **settings)


def describe(task, weights):
    """How to feed the model and read its result, as JSON values."""
    config, names = task.config, task.class_names()
    pair = config.data.columns[1] is not None
    shown = "[CLS] text [SEP] second text [SEP]" if pair else "[CLS] text [SEP]"
    result = "logits, float32 [N, classes]; their softmax is the probabilities, in the order of class_names"
    return {
        "name": config.name,
        "weights_sha256": weights.sha256,
        "max_length": config.data.max_length,
        "padding": task.tokens.padding,
        "feed": f"tokens and types, int64 [N, L], any N, any L up to {config.model.max_length}: {shown} by tokenizer.json, "
        f"in training at most {config.data.max_length} tokens, filled up with `padding`; types 0, and 1 of a second text",
        "result": "numbers, float32 [N, 1]" if names is None else result,
        "class_names": names,
    }
