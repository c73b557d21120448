"""Cropping, resizing and normalising on the training device, against Pillow."""

import numpy as np
import paddle
import pytest
from PIL import Image

from rdrop_paddle.vision import pixels


def by_pillow(image, box, flip, size):
    image = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)


def random_crops(height, width, count=40):
    """(images, boxes, flips): the first boxes are the whole image and its four corner pixels."""
    rng = np.random.default_rng([height, width])
    left, top = rng.integers(0, width, count), rng.integers(0, height, count)
    boxes = np.stack([left, top, rng.integers(left + 1, width + 1), rng.integers(top + 1, height + 1)], axis=1)
    boxes[0] = 0, 0, width, height
    boxes[1:5] = [(x, y, x + 1, y + 1) for x in (0, width - 1) for y in (0, height - 1)]
    return rng.integers(0, 256, [count, height, width, 3], dtype="uint8"), boxes, rng.random(count) < 0.5


def crop_and_resize(images, boxes, flips, size):
    """The function's result as [N, size, size, 3] from 0 to 255."""
    found = pixels.crop_and_resize(*map(paddle.to_tensor, (images, boxes, flips)), size)
    assert found.shape == [len(images), 3, size, size] and found.dtype == paddle.float32
    return (found.numpy().transpose(0, 2, 3, 1) + 1) * 127.5


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 96), (32, 32, 384), (32, 32, 32), (32, 32, 12), (8, 8, 16), (40, 24, 7), (24, 40, 64)],
)
def test_crops_are_those_of_pillow(height, width, size):
    images, boxes, flips = random_crops(height, width)
    for image, box, flip, found in zip(images, boxes.tolist(), flips, crop_and_resize(images, boxes, flips, size)):
        expected = by_pillow(Image.fromarray(image), box, flip, size)  # rounded after each of the two axes
        np.testing.assert_allclose(found, expected, rtol=0, atol=1 + 1e-3)
        planes = [by_pillow(Image.fromarray(image[..., c].astype("float32")), box, flip, size) for c in range(3)]  # not rounded
        np.testing.assert_allclose(found, np.stack(planes, axis=-1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_a_whole_image_of_the_right_size_is_only_normalised_to_the_bit(flip):
    images = np.random.default_rng(0).integers(0, 256, [4, 32, 32, 3], dtype="uint8")
    boxes, flips = np.tile([0, 0, 32, 32], (4, 1)), np.full(4, flip)
    found = pixels.crop_and_resize(*map(paddle.to_tensor, (images, boxes, flips)), 32)
    expected = pixels.normalise(paddle.to_tensor(images[:, :, ::-1].copy() if flip else images))
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_pixels_outside_the_box_are_not_seen():
    images, boxes, flips = random_crops(16, 16)
    others = images ^ 0xFF
    for image, other, (left, top, right, bottom) in zip(images, others, boxes):
        other[top:bottom, left:right] = image[top:bottom, left:right]
    for size in (5, 40):
        expected = crop_and_resize(images, boxes, flips, size)
        np.testing.assert_array_equal(crop_and_resize(others, boxes, flips, size), expected)


def test_normalisation_is_from_minus_one_to_one():
    found = pixels.normalise(paddle.to_tensor(np.array([[[[0, 51, 255]]]], "uint8")))
    assert found.shape == [1, 3, 1, 1]
    np.testing.assert_allclose(found.numpy().ravel(), [(0 / 255 - 0.5) / 0.5, (51 / 255 - 0.5) / 0.5, 1.0], atol=1e-6)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_the_default_normalisation_keeps_the_bits_that_the_published_runs_were_trained_with():
    levels = paddle.arange(256).astype("uint8").reshape([1, 16, 16, 1]).expand([1, 16, 16, 3])
    before = levels.transpose([0, 3, 1, 2]).astype("float32") / 127.5 - 1.0
    for settings in ((), ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])):
        assert pixels.normalise(levels, *settings).numpy().tobytes() == before.numpy().tobytes()


def test_each_channel_has_its_own_mean_and_deviation_and_the_way_back_gives_the_same_bytes():
    images = np.random.default_rng(0).integers(0, 256, [2, 5, 7, 3], dtype="uint8")
    found = pixels.normalise(paddle.to_tensor(images), *IMAGENET)
    expected = (images / 255 - np.array(IMAGENET[0])) / np.array(IMAGENET[1])
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    np.testing.assert_array_equal(pixels.as_picture(found, *IMAGENET), images)


def test_crops_are_normalised_by_the_same_numbers_as_whole_images():
    images, boxes, flips = random_crops(32, 32)
    given = list(map(paddle.to_tensor, (images, boxes, flips)))
    by_halves = pixels.crop_and_resize(*given, 12).numpy() * 0.5 + 0.5
    mean, std = (np.array(numbers).reshape(3, 1, 1) for numbers in IMAGENET)
    np.testing.assert_allclose(pixels.crop_and_resize(*given, 12, *IMAGENET).numpy(), (by_halves - mean) / std, atol=1e-4)
