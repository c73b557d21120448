"""What becomes of pixels on the training device: uint8 images, cropped, resized and normalised for the model in one go."""

import numpy as np
import paddle
import paddle.nn.functional as F

HALVES = (0.5, 0.5, 0.5)  # of Google's ViTs: values from -1 to 1


def upload(array):
    """A numpy array as a tensor on the training device; a GPU copies it while the host goes on."""
    if not paddle.get_device().startswith("gpu"):
        return paddle.to_tensor(array)
    # only from pinned memory is the copy asynchronous; Paddle keeps that memory until the copy is done
    return paddle.to_tensor(array, place=paddle.CUDAPinnedPlace()).cuda(blocking=False)


def normalise(images, mean=HALVES, std=HALVES):
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W]: (x / 255 - mean) / std, of red, green and blue."""
    mean, std = np.asarray(mean), np.asarray(std)
    return images.transpose([0, 3, 1, 2]).astype("float32") / _of_channels(255 * std) - _of_channels(mean / std)


def as_picture(images, mean, std):
    """What `normalise` was given, rounded, as an array: uint8 [N, H, W, 3] of float32 [N, 3, H, W]."""
    shares = images.transpose([0, 2, 3, 1]).numpy() * np.float32(std) + np.float32(mean)
    return (255 * shares).round().clip(0, 255).astype("uint8")


def _of_channels(values):
    """Three numbers for channels first: one number where they are equal, which is sooner."""
    if (values == values[0]).all():
        return values[0].item()
    return paddle.to_tensor(values.astype("float32").reshape(3, 1, 1))


def crop_and_resize(images, boxes, flips, size, mean=HALVES, std=HALVES):
    """The boxes of the images, mirrored or not, resized to `size` pixels a side and normalised: float32 [N, 3, size, size].

    Bilinear, and a mean over the pixels in reach when it shrinks: Pillow's `image.crop(box).resize(size, BILINEAR)`, which
    rounds in between, to 1/255. As this is separable and linear, it is two products with a matrix per image and axis.

    Args:
        images: uint8 [N, H, W, 3].
        boxes: integers [N, 4], left, top, right and bottom edge in pixels.
        flips: bool [N].
        mean, std: as in `normalise`.
    """
    count, height, width, channels = images.shape
    left, top, right, bottom = boxes.astype("float32").unbind(axis=1)
    # mirrored, the crop runs from its right edge to its left
    across = resize_weights(paddle.where(flips, right, left), paddle.where(flips, left, right), size, width)
    down = resize_weights(top, bottom, size, height)
    # normalised first, where there are fewer pixels: the weights of a new pixel add up to 1
    rows = normalise(images, mean, std).reshape([count, channels * height, width]).matmul(across, transpose_y=True)
    return down.unsqueeze(1).matmul(rows.reshape([count, channels, height, size]))


def resize_weights(starts, ends, size, length):
    """Weights of `length` old pixels in each of `size` new ones, which divide the way from `starts` to `ends` evenly.

    The triangle filter of Pillow's BILINEAR: its half width is one old pixel, or one new pixel where that is larger. Old
    pixels beyond `starts` and `ends`, float32 [N], have no weight; where ends < starts, the new pixels run backwards.

    Returns:
        float32 [N, size, length], rows adding up to 1.
    """
    starts, ends = starts.reshape([-1, 1, 1]), ends.reshape([-1, 1, 1])
    step = (ends - starts) / size  # old pixels per new one
    new = starts + (paddle.arange(size, dtype="float32").unsqueeze(1) + 0.5) * step  # [N, size, 1], centres
    old = paddle.arange(length, dtype="float32") + 0.5  # [length], centres
    reach = 1 / step.abs().clip(min=1.0).expand_as(new)
    # the distances as a product: broadcasting a difference to [N, size, length] takes a CPU far longer
    distances = paddle.concat([new * reach, reach], axis=-1).matmul(paddle.stack([paddle.ones_like(old), -old]))
    weights = F.relu(1 - distances.abs())
    weights = weights * ((old - starts) * (old - ends) < 0).astype("float32")
    return weights / weights.sum(axis=-1, keepdim=True)
