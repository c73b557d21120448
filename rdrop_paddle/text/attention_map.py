"""Which words of a source a translation looks at, and the picture of it."""

import numpy as np
import paddle
from matplotlib.figure import Figure

CELL, MARGIN = 0.3, 2.0  # inches


def attention_map(model, source, target):
    """How much each token of `target` draws on each of `source`, float32 [T, S], whose rows sum to 1.

    The mean over the decoder's layers and heads of its attention to the source, in the row of the token that it leads to.

    Args:
        source, target: integers, each with the end of a text as its last.
    """
    found = []

    def follow(layer, inputs):
        x, memory, *bias = inputs
        found.append(layer.weights(x, layer.heads(layer.k_proj(memory)), *bias)[0].mean(axis=0))

    hooks = [layer.encoder_attn.register_forward_pre_hook(follow) for layer in model.decoder.layers]
    model.eval()
    try:
        with paddle.no_grad():
            model(paddle.to_tensor([source]), paddle.to_tensor([[target[-1], *target[:-1]]]), project=False)
    finally:
        for hook in hooks:
            hook.remove()
    return np.mean([weights.numpy() for weights in found], axis=0)


def drawing(shares, source, target):
    """A matplotlib Figure of `shares` [T, S] between the pieces of words of either side."""
    figure = Figure(figsize=(MARGIN + CELL * len(source), MARGIN + CELL * len(target)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="viridis", vmin=0)
    axes.set_xticks(range(len(source)), source, rotation=90)
    axes.set_yticks(range(len(target)), target)
    axes.xaxis.tick_top()
    axes.set(xlabel="source", ylabel="translation")
    return figure
