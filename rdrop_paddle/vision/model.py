"""The Vision Transformer, arXiv 2010.11929, with the parameter names of PaddleClas and timm.

Dropout sits where the official R-Drop code has it: after the position embedding and twice in each MLP. Google's ViT also has it
after the attention's projection, whose rate is a setting of its own here; attention weights are never dropped. The forward
gives logits and nothing else; loss and alpha live in loss.py.
"""

from dataclasses import fields

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute as recompute_in_backward

from ..errors import UserError
from ..layers import Dropout, LayerNorm, Linear, attention, repeated
from .architectures import with_numbers

OF_INPUT = ("name", "weights", "keep_head", "mean", "std")  # keys of the section that are no arguments of the model


def build_model(config):
    """A VisionTransformer with random weights from a ModelConfig: the name's numbers, replaced by those that are given.

    Raises:
        UserError: an unknown name, a number missing, or numbers that do not fit together.
    """
    config = with_numbers(config)
    if config.image_size % config.patch_size:
        raise UserError(f"model.image_size {config.image_size} is no multiple of model.patch_size {config.patch_size}")
    if config.embed_dim % config.num_heads:
        raise UserError(f"model.embed_dim {config.embed_dim} is no multiple of model.num_heads {config.num_heads}")
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in OF_INPUT}
    return VisionTransformer(**settings)


class VisionTransformer(nn.Layer):
    """Images [N, 3, image_size, image_size], float, to logits [N, classes]; the `model` section tells the arguments."""

    def __init__(
        self,
        *,
        image_size=224,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        classes=1000,
        drop_rate=0.0,
        proj_drop_rate=0.0,
        qkv_bias=True,
        epsilon=1e-6,
    ):
        super().__init__()
        self.image_size = image_size
        tokens = 1 + (image_size // patch_size) ** 2
        normal = nn.initializer.TruncatedNormal(std=0.02)
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.cls_token = self.create_parameter([1, 1, embed_dim], default_initializer=normal)
        self.pos_embed = self.create_parameter([1, tokens, embed_dim], default_initializer=normal)
        self.pos_drop = Dropout(drop_rate)
        self.blocks = nn.LayerList(
            [Block(embed_dim, num_heads, mlp_ratio, drop_rate, proj_drop_rate, qkv_bias, epsilon) for _ in range(depth)]
        )
        self.norm = LayerNorm(embed_dim, epsilon=epsilon)
        self.head = Linear(embed_dim, classes)
        self.apply(_initialise_linear)

    def forward(self, images, passes=1, *, shared_blocks=0, recompute=False):
        """Logits [passes * N, classes], the first pass first; each pass has dropout masks of its own.

        What lies before the first dropout is computed once, and with `shared_blocks` so are the first blocks and the
        dropout in them. `recompute` keeps only the blocks' inputs for the backward pass, which computes the rest again.

        Raises:
            UserError: images of another size than the model's.
        """
        _check_size(images, self.image_size)
        x = self.patch_embed(images)  # [N, L-1, D]
        class_token = paddle.zeros_like(x[:, :1]) + self.cls_token.astype(x.dtype)  # not expand: paddle2onnx gets it wrong
        x = paddle.concat([class_token, x], axis=1)
        x = x + self.pos_embed  # [N, L, D]
        if shared_blocks == 0:
            x = repeated(x, passes)
        x = self.pos_drop(x)
        for index, block in enumerate(self.blocks):
            outputs = 1 if index == len(self.blocks) - 1 else None  # the head sees the class token alone
            # DataParallel does not see the gradients of Paddle's reentrant way
            x = recompute_in_backward(block, x, outputs, use_reentrant=False) if recompute else block(x, outputs)
            if index + 1 == shared_blocks:
                x = repeated(x, passes)
        return self.head(self.norm(x[:, 0]))


def _check_size(images, side):
    """Some other sizes would go through: a rest is cut off, and a grid of other proportions can have as many patches."""
    height, width = images.shape[-2:]
    if any(isinstance(found, int) and found not in (side, -1) for found in (height, width)):  # not known in some programs
        raise UserError(
            f"images of {height} x {width} pixels for a model of {side} x {side}: resize them, or build it for their size"
        )


class PatchEmbed(nn.Layer):
    """Non-overlapping patches [N, 3, H, W] -> [N, H/P * W/P, D]."""

    def __init__(self, patch_size, embed_dim):
        super().__init__()
        self.proj = nn.Conv2D(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose([0, 2, 1])


class Block(nn.Layer):
    """Pre-norm transformer block, [N, L, D] -> [N, L, D], or [N, outputs, D]: of the first tokens alone."""

    def __init__(self, embed_dim, num_heads, mlp_ratio, drop_rate, proj_drop_rate, qkv_bias, epsilon):
        super().__init__()
        self.norm1 = LayerNorm(embed_dim, epsilon=epsilon)
        self.attn = Attention(embed_dim, num_heads, proj_drop_rate, qkv_bias)
        self.norm2 = LayerNorm(embed_dim, epsilon=epsilon)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), drop_rate)

    def forward(self, x, outputs=None):
        attended = self.attn(self.norm1(x), outputs)
        if outputs is not None:
            x = x[:, :outputs]
        x = x + attended
        return x + self.mlp(self.norm2(x))


class Attention(nn.Layer):
    def __init__(self, embed_dim, num_heads, proj_drop_rate, qkv_bias):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dim, 3 * embed_dim, bias_attr=None if qkv_bias else False)
        self.proj = Linear(embed_dim, embed_dim)
        self.proj_drop = Dropout(proj_drop_rate)

    def forward(self, x, outputs=None):
        _, length, width = x.shape
        heads = [-1, length, self.num_heads, width // self.num_heads]
        # slices of the last axis copy far less than one transpose of a 5-D tensor
        query, key, value = (t.reshape(heads) for t in self.qkv(x).chunk(3, axis=-1))  # [N, L, H, D/H] each
        if outputs is not None:
            query = query[:, :outputs]
        mixed = attention(query, key, value)  # [N, L, H, D/H]
        return self.proj_drop(self.proj(mixed.flatten(2)))


class Mlp(nn.Layer):
    def __init__(self, embed_dim, hidden_dim, drop_rate):
        super().__init__()
        self.fc1 = Linear(embed_dim, hidden_dim)
        self.drop1 = Dropout(drop_rate)
        self.fc2 = Linear(hidden_dim, embed_dim)
        self.drop2 = Dropout(drop_rate)

    def forward(self, x):
        x = self.drop1(F.gelu(self.fc1(x)))  # the exact GELU, with erf
        return self.drop2(self.fc2(x))


def _initialise_linear(layer):
    if isinstance(layer, Linear):
        nn.initializer.TruncatedNormal(std=0.02)(layer.weight)
        if layer.bias is not None:
            nn.initializer.Constant(0.0)(layer.bias)
