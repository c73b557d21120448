"""Random crops and mirroring: their distribution, and that an image's draw is its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdrop_paddle.vision import augmentation
from rdrop_paddle.vision.augmentation import CROP_UNIFORMS, TRIES, Augmentation, crop_boxes, splitmix64, uniforms

EXTREMES = [0.0, 1 - 2.0**-53]


def crop_by_loop(drawn, width, height, smallest_share):
    """One crop as torchvision's RandomResizedCrop writes it, with its random numbers given."""
    for area_draw, ratio_draw in zip(drawn[:TRIES], drawn[TRIES : 2 * TRIES]):
        area = width * height * (smallest_share + (1 - smallest_share) * area_draw)
        ratio = np.exp(np.log(3 / 4) + (np.log(4 / 3) - np.log(3 / 4)) * ratio_draw)
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(drawn[-2] * (width - w + 1)), int(drawn[-1] * (height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1.0), st.integers(0, 2**32))
def test_crops_are_those_of_torchvisions_loop(width, height, smallest, seed):
    drawn = np.random.default_rng(seed).random([8, CROP_UNIFORMS])
    sizes = np.array([width, height, width, 1, 300, 7, width, 32]), np.array([height, width, 1, height, 7, 300, width, 32])
    expected = [crop_by_loop(*values, smallest) for values in zip(drawn, *(size.tolist() for size in sizes))]
    assert crop_boxes(drawn, *sizes, smallest).tolist() == [list(box) for box in expected]


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0.01, 1.0),
    st.lists(st.sampled_from(EXTREMES), min_size=22, max_size=22),
)
def test_a_crop_lies_in_the_image_whatever_is_drawn(width, height, smallest, drawn):
    ((left, top, right, bottom),) = crop_boxes(np.array([drawn]), width, height, smallest)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_crops_have_the_asked_areas_aspect_ratios_and_places():
    boxes = crop_boxes(np.random.default_rng(0).random([4000, CROP_UNIFORMS]), 1000, 1000, 0.05)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / 1e6
    assert 0.049 < share.min() < 0.07 and share.max() > 0.9
    below = [np.mean(share < limit) for limit in (0.3, 0.6)]  # uniform there; of the larger ones some do not fit
    assert below[0] / below[1] == pytest.approx((0.3 - 0.05) / (0.6 - 0.05), abs=0.03)
    ratio = np.log(width / height)
    assert abs(ratio).max() < np.log(4 / 3) + 0.02 and abs(ratio.mean()) < 0.02
    for place in (boxes[:, 0] / (1000 - width + 1), boxes[:, 1] / (1000 - height + 1)):
        assert np.histogram(place, 4, (0, 1))[0] == pytest.approx(1000, abs=120)


def test_the_generator_is_splitmix64():
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = splitmix64(np.array([1234567], "uint64"), np.arange(5, dtype="uint64"))
    assert found.tolist() == expected  # the published outputs of the C code


def test_the_largest_number_drawn_is_below_one(monkeypatch):
    monkeypatch.setattr(augmentation, "splitmix64", lambda _, positions: np.full_like(positions, 2**64 - 1))
    assert uniforms([0], [0], 1).item() == 1 - 2.0**-53


def test_draws_are_uniform_and_independent_of_each_other():
    drawn = [uniforms([seed, epoch], np.arange(20_000), 3) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    columns = np.concatenate([*drawn, np.roll(drawn[0], 1, axis=0)], axis=1)  # draws, epochs, seeds and the next image
    assert columns.min() >= 0 and columns.max() < 1
    for column in columns.T:
        assert np.histogram(column, 20, (0, 1))[0] == pytest.approx(1000, abs=150)
    assert abs(np.corrcoef(columns.T) - np.eye(12)).max() < 0.03


def test_an_images_draw_is_a_function_of_seed_epoch_and_index_alone():
    def draw(epoch, indices, seed=3):
        boxes, flips = Augmentation(seed, smallest_share=0.2, flip=True).draw(epoch, indices, 32, 24)
        return np.concatenate([boxes, flips[:, None]], axis=1)

    together = draw(5, np.arange(100))
    np.testing.assert_array_equal(draw(5, np.array([70, 3, 99])), together[[70, 3, 99]])
    assert len(np.unique(together, axis=0)) > 90
    for other in (draw(6, np.arange(100)), draw(5, np.arange(100), seed=4)):
        assert (other != together).any(axis=1).mean() > 0.9


def test_half_of_the_images_are_mirrored_and_none_when_not_asked():
    for flip, share in [(True, 0.5), (False, 0)]:
        boxes, flips = Augmentation(smallest_share=0.2, flip=flip).draw(0, np.arange(4000), 32, 32)
        assert flips.dtype == bool and flips.mean() == pytest.approx(share, abs=0.03)
        if flip:  # whatever the crop
            assert abs(np.corrcoef(np.concatenate([boxes, flips[:, None]], axis=1).T)[4, :4]).max() < 0.05


def test_without_augmentation_images_are_whole():
    boxes, flips = Augmentation().draw(2, np.arange(3), 32, 8)
    assert boxes.tolist() == [[0, 0, 32, 8]] * 3 and not flips.any()
