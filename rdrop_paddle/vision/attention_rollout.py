"""Where a Vision Transformer looks: attention rollout, and the picture of it."""

import numpy as np
import paddle
import paddle.nn.functional as F
from PIL import Image, ImageOps

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")  # of pictures that are written
PICTURE_SIDE = 448  # pixels of the longer side of either half of an overlay
COLOURS = dict(black="#000060", mid="#d03030", white="#ffff40")  # of the least, middle and most attention
OPACITY = 0.55  # of the colours over the image


def weights_of(block, x):
    """How much each token of a block's input [N, L, D] attends to each, [N, H, L, L]; the last axis sums to 1.

    The model itself never holds them: its fused attention gives the weighted values only.
    """
    attention = block.attn
    query, key, _ = attention.qkv(block.norm1(x)).chunk(3, axis=-1)
    count, length, width = x.shape
    head_width = width // attention.num_heads
    query, key = (
        part.reshape([count, length, attention.num_heads, head_width]).transpose([0, 2, 1, 3]) for part in (query, key)
    )
    return F.softmax(query.matmul(key, transpose_y=True) / head_width**0.5, axis=-1)


def rollout(model, image):
    """How much the class token draws from each patch of `image` [1, 3, S, S], through all blocks: [S/P, S/P].

    Attention rollout (Abnar and Zuidema, arXiv 2005.00928): the product of each block's weights, averaged over heads, with
    the identity added for the residual connection and the rows normalised. The patches' shares and the class token's own
    add up to 1.
    """
    product = []

    def follow(block, inputs):
        weights = weights_of(block, inputs[0])[0].mean(axis=0)  # [L, L]
        weights = (weights + paddle.eye(len(weights))) / 2  # rows of weights add up to 1, of the identity too
        product[:] = [weights.matmul(product[0]) if product else weights]

    hooks = [block.register_forward_pre_hook(follow) for block in model.blocks]
    model.eval()
    with paddle.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    patches = product[0][0, 1:]
    side = round(len(patches) ** 0.5)
    return patches.reshape([side, side]).numpy()


def overlay(image, shares):
    """The picture `image`, and beside it the same coloured by `shares` [g, g]: blue least, red, yellow most."""
    scale = PICTURE_SIDE / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    share = (shares - shares.min()) / max(np.ptp(shares), np.finfo("float32").tiny)
    heat = Image.fromarray(np.round(255 * share).astype("uint8")).resize((width, height), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (2 * width, height))
    both.paste(image, (0, 0))
    both.paste(Image.blend(image, ImageOps.colorize(heat, **COLOURS), OPACITY), (width, 0))
    return both
