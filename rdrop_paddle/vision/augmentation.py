"""Random crops and mirroring, drawn for a whole batch at once.

The draw of an image is a pure function of (seed, epoch, index): neither the batch it is in nor workers or ranks change it.
"""

from dataclasses import dataclass

import numpy as np

TRIES = 10  # for a crop that fits, as in torchvision
CROP_UNIFORMS = 2 * TRIES + 2  # an area and a ratio for each try; left and top
STREAM = 1  # sets these numbers apart from those that order an epoch


@dataclass(frozen=True)
class Augmentation:
    """A crop of `smallest_share` to all of the area, mirrored every other time with `flip`. The default changes nothing."""

    seed: int = 0
    smallest_share: float = 1.0  # 1 = no crop
    flip: bool = False

    def draw(self, epoch, indices, width, height):
        """(boxes, flips) for the images `indices` int [N] of `epoch`, which are `width` by `height` pixels, numbers or [N].

        Returns:
            boxes: int64 [N, 4], the left, top, right and bottom edge of each crop, in pixels.
            flips: bool [N], whether the crop is mirrored.
        """
        drawn = uniforms([self.seed, epoch, STREAM], indices, CROP_UNIFORMS + 1)
        if self.smallest_share < 1:
            boxes = crop_boxes(drawn[:, :CROP_UNIFORMS], width, height, self.smallest_share)
        else:
            boxes = np.stack(np.broadcast_arrays(0, 0, width, height, indices)[:4], axis=1)
        return boxes, (drawn[:, -1] < 0.5) & self.flip


def crop_boxes(drawn, width, height, smallest_share):
    """Random crops with `smallest_share` to all of the area and an aspect ratio (width / height) of 3/4 to 4/3.

    The distribution of torchvision's and Paddle's RandomResizedCrop: ten tries with a uniform area and a log-uniform ratio,
    else the central crop nearest in ratio.

    Args:
        drawn: uniform numbers, float64 [N, CROP_UNIFORMS] in [0, 1).
        width, height: of the images in pixels, numbers or int [N].

    Returns:
        int64 [N, 4]: left, top, right and bottom edge, in pixels.
    """
    width, height = (np.broadcast_to(size, len(drawn)) for size in (width, height))
    area = (width * height)[:, None] * (smallest_share + (1 - smallest_share) * drawn[:, :TRIES])  # [N, TRIES]
    ratio = np.exp(np.log(4 / 3) * (2 * drawn[:, TRIES : 2 * TRIES] - 1))
    widths, heights = np.rint((area * ratio) ** 0.5), np.rint((area / ratio) ** 0.5)
    fits = (widths > 0) & (widths <= width[:, None]) & (heights > 0) & (heights <= height[:, None])
    found, first = fits.any(axis=1), (np.arange(len(drawn)), fits.argmax(axis=1))
    w = np.where(found, widths[first], np.minimum(width, np.rint(height * 4 / 3)))
    h = np.where(found, heights[first], np.minimum(height, np.rint(width * 4 / 3)))
    across, down = np.where(found, drawn[:, -2:].T, 0.5)  # the share of the free pixels left of and above the crop
    # all of 0 to width - w are equally likely; the central crop has the smaller half left of it
    left = np.floor(across * np.where(found, width - w + 1, width - w))
    top = np.floor(down * np.where(found, height - h + 1, height - h))
    return np.stack([left, top, left + w, top + h], axis=1).astype("int64")


def uniforms(key, indices, count):
    """`count` uniform numbers for each of `indices` int [N], float64 [N, count] in [0, 1).

    Index i has the numbers i * count, i * count + 1, ... of the SplitMix64 generator that `key`, a list of integers, starts.
    A counter is all the state that it has, so that any index can be drawn alone.
    """
    start = np.random.SeedSequence(key).generate_state(1, "uint64")
    positions = np.asarray(indices, "uint64")[:, None] * np.uint64(count) + np.arange(count, dtype="uint64")
    return (splitmix64(start, positions) >> np.uint64(11)) * 2.0**-53


def splitmix64(start, positions):
    """The numbers at `positions` (0, 1, ...) of SplitMix64 started with `start`, both arrays of uint64, which wrap around.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014, with the constants of Java's.
    """
    z = start + (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
