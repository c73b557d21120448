"""Attention rollout and the picture of it."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from PIL import Image

from rdrop_paddle.vision import attention_rollout


@pytest.fixture
def tokens():
    return paddle.to_tensor(np.random.default_rng(3).normal(size=[2, 5, 16]).astype("float32"))


@paddle.no_grad()
def test_attention_weights_are_those_of_paddles_fused_attention(task, tokens):
    block = task().model.blocks[0]
    weights = attention_rollout.weights_of(block, tokens)
    assert weights.shape == [2, 2, 5, 5]
    heads = [part.reshape([2, 5, 2, 8]) for part in block.attn.qkv(block.norm1(tokens)).chunk(3, axis=-1)]
    mixed = weights.matmul(heads[2].transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3])  # [N, L, H, D/H]
    np.testing.assert_allclose(mixed.numpy(), F.scaled_dot_product_attention(*heads).numpy(), atol=1e-5)
    attended = block.attn(block.norm1(tokens))
    np.testing.assert_allclose(block.attn.proj(mixed.flatten(2)).numpy(), attended.numpy(), atol=1e-4)


@paddle.no_grad()
def test_rollout_is_the_product_of_the_blocks_weights(task):
    model = task("model.image_size=12").model
    image = paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, [1, 3, 12, 12]).astype("float32"))
    model.eval()
    before = model(image).numpy()
    found = attention_rollout.rollout(model, image)
    np.testing.assert_array_equal(model(image).numpy(), before)
    assert not any(block._forward_pre_hooks for block in model.blocks)
    x = model.patch_embed(image)
    x = paddle.concat([model.cls_token, x], axis=1) + model.pos_embed
    rollout = np.eye(10)
    for block in model.blocks:
        residual = attention_rollout.weights_of(block, x).numpy()[0].mean(axis=0) + np.eye(10)
        rollout = residual / residual.sum(axis=1, keepdims=True) @ rollout
        x = block(x)
    assert rollout[0].sum() == pytest.approx(1)
    np.testing.assert_allclose(found, rollout[0, 1:].reshape(3, 3), atol=1e-6)
    assert np.ptp(found) > 0.01


def test_the_overlay_is_yellow_where_attention_is_and_blue_where_it_is_not():
    image = Image.fromarray(np.full([10, 20, 3], 128, "uint8"))
    corner = np.zeros([4, 4], "float32")
    corner[0, 3] = 0.2
    both = np.asarray(attention_rollout.overlay(image, corner)).astype(int)  # [H, 2W, 3]
    assert both.shape == (224, 896, 3)
    left, right = both[:, :448], both[:, 448:]
    assert (left == 128).all()
    yellow, blue = right[10, 438], right[213, 10]
    assert yellow[0] > 180 and yellow[1] > 180 and yellow[2] < 110
    assert blue[0] < 70 and blue[1] < 70 and blue[2] > 90
    flat = np.asarray(attention_rollout.overlay(image, np.full([4, 4], 0.1, "float32")))
    assert (flat[:, 448:] == flat[0, -1]).all()
