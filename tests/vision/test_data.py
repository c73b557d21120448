import itertools

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rdrop_paddle import UserError
from rdrop_paddle.vision import data
from rdrop_paddle.vision.task import ImageClassification, normalise


def first(count, order):
    return list(itertools.islice(order, count))


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1.0), st.integers(0, 2**32))
def test_a_crop_lies_in_the_image(width, height, smallest, seed):
    left, top, right, bottom = data.crop_box(np.random.default_rng(seed), width, height, smallest)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_crops_have_the_asked_areas_and_aspect_ratios():
    rng = np.random.default_rng(0)
    boxes = np.array([data.crop_box(rng, 1000, 1000, 0.05) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / 1e6
    assert 0.049 < share.min() < 0.07 and share.max() > 0.9
    below = [np.mean(share < limit) for limit in (0.3, 0.6)]  # uniform there; of the larger ones some do not fit
    assert below[0] / below[1] == pytest.approx((0.3 - 0.05) / (0.6 - 0.05), abs=0.03)
    ratio = np.log(width / height)
    assert abs(ratio).max() < np.log(4 / 3) + 0.02 and abs(ratio.mean()) < 0.02


def key_sets(**overrides):
    """Each update's keys over all ranks, for the first five updates of 50 images."""
    settings = dict(batch_size=16, micro_batch_size=4, ranks=1, first_update=1) | overrides
    per_rank = settings["batch_size"] // settings["ranks"] // settings["micro_batch_size"]
    updates = []
    orders = [data.training_order(50, 7, rank=rank, **settings) for rank in range(settings["ranks"])]
    for _ in range(5):
        updates.append(sorted(key for order in orders for batch in first(per_rank, order) for key in batch))
    return updates


@pytest.mark.parametrize("layout", [dict(ranks=2), dict(ranks=4), dict(micro_batch_size=16), dict(ranks=2, micro_batch_size=8)])
def test_a_global_batch_holds_the_same_images_whatever_the_layout(layout):
    assert key_sets(**layout) == key_sets()


def test_an_epoch_has_each_image_at_most_once_and_drops_the_rest():
    updates = key_sets()
    for epoch, batches in [(0, updates[:3]), (1, updates[3:])]:
        keys = [key for batch in batches for key in batch]
        assert len(set(keys)) == len(keys) and {e for e, _ in keys} == {epoch}
    assert updates[0] != [(0, index) for _, index in updates[3]]  # the next epoch has an order of its own


@pytest.mark.parametrize("first_update", [2, 3, 4, 5])
def test_starting_later_gives_the_rest_of_the_same_order(first_update):
    settings = dict(batch_size=16, micro_batch_size=8, rank=1, ranks=2)
    whole = first(10, data.training_order(50, 7, first_update=1, **settings))
    later = data.training_order(50, 7, first_update=first_update, **settings)
    assert first(4, later) == whole[first_update - 1 : first_update + 3]


def test_a_batch_larger_than_the_training_set_is_an_error():
    with pytest.raises(UserError, match=r"train.batch_size 64 is more than the 50 training images"):
        data.training_order(50, 0, batch_size=64, micro_batch_size=64, rank=0, ranks=1, first_update=1)


@given(st.integers(0, 200), st.integers(1, 64), st.integers(1, 7))
def test_ranks_count_each_test_image_once_in_the_same_batches(count, batch_size, ranks):
    per_rank = [data.evaluation_order(count, batch_size=batch_size, rank=rank, ranks=ranks) for rank in range(ranks)]
    batches = sorted(batch for order in per_rank for batch in order)
    assert batches == data.evaluation_order(count, batch_size=batch_size, rank=0, ranks=1)
    assert [index for batch in batches for _, index in batch] == list(range(count))


def test_held_out_part_and_subset_are_stratified_disjoint_and_fixed():
    labels = np.repeat(np.arange(10), 50)
    train, val = data.split_indices(labels, 0.2, 7)
    assert np.bincount(labels[val]).tolist() == [10] * 10 and np.bincount(labels[train]).tolist() == [7] * 10
    assert not set(train) & set(val)
    everything, same_val = data.split_indices(labels, 0.2, None)
    assert len(everything) == 400 and set(train) <= set(everything) and (val == same_val).all()
    larger, _ = data.split_indices(labels, 0.2, 8)
    assert set(train) <= set(larger)  # a larger subset contains the smaller
    with pytest.raises(UserError, match="data.images_per_class is 41 but class 0 has 40"):
        data.split_indices(labels, 0.2, 41)


def test_digits_are_real_and_split_once(tiny_config):
    splits = data.load_splits(tiny_config().data, "train") | data.load_splits(tiny_config().data, "test")
    assert {split: len(images.labels) for split, images in splits.items()} == {"train": 862, "val": 216, "test": 719}
    assert all(images.images[0].shape == (8, 8, 3) and images.images[0].dtype == np.uint8 for images in splits.values())
    assert max(image.max() for image in splits["test"].images) == 255


def read(config, workers, rank=0, ranks=1):
    source = data.load_splits(config.data, "train")["train"]
    dataset = data.ImageDataset(source, 8, seed=3, crop_scale=0.3, flip=True)
    order = data.training_order(
        len(source.labels), 3, batch_size=16, micro_batch_size=8, rank=rank, ranks=ranks, first_update=1
    )
    batches = first(4 // ranks, data.reader(dataset, order, workers))
    return {int(i): image for images, _, indices in batches for i, image in zip(indices, images)}


def test_augmentation_does_not_depend_on_workers_or_ranks(tiny_config):
    alone = read(tiny_config(), workers=0)
    with_workers = read(tiny_config(), workers=2)
    two_ranks = read(tiny_config(), 0, rank=0, ranks=2) | read(tiny_config(), 0, rank=1, ranks=2)
    assert len(alone) == 32 and alone.keys() == with_workers.keys() == two_ranks.keys()
    for index, image in alone.items():
        np.testing.assert_array_equal(image, with_workers[index])
        np.testing.assert_array_equal(image, two_ranks[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_while_reading_reaches_the_reader(tmp_path, workers):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    dataset = data.ImageDataset(data.Images([tmp_path / "broken.jpg"], np.zeros(1, "int64"), ["cat"]), 8)
    with pytest.raises(UserError, match="broken.jpg"):
        list(data.reader(dataset, [[(0, 0)]] * 20, workers))


def test_epochs_and_seeds_augment_differently_and_evaluation_never_does(tiny_config):
    source = data.load_splits(tiny_config().data, "train")["train"]
    augmented = data.ImageDataset(source, 16, seed=3, crop_scale=0.3)
    other_seed = data.ImageDataset(source, 16, seed=4, crop_scale=0.3)
    assert (augmented[0, 5][0] == augmented[0, 5][0]).all()
    assert (augmented[0, 5][0] != augmented[1, 5][0]).any() and (augmented[0, 5][0] != other_seed[0, 5][0]).any()
    plain = data.ImageDataset(source, 16)
    expected = Image.fromarray(source.images[5]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(plain[0, 5][0], np.asarray(expected))


def test_normalisation_is_from_minus_one_to_one():
    found = normalise(paddle.to_tensor(np.array([[[[0, 51, 255]]]], "uint8")))
    assert found.shape == [1, 3, 1, 1]
    np.testing.assert_allclose(found.numpy().ravel(), [(0 / 255 - 0.5) / 0.5, (51 / 255 - 0.5) / 0.5, 1.0], atol=1e-6)


@pytest.fixture
def image_folder(tmp_path):
    for part, count in [("train", 6), ("val", 2)]:
        for label, name in enumerate(["cat", "dog"]):
            (tmp_path / part / name).mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (20, 10), (100 * label, n, 0)).save(tmp_path / part / name / f"{n}.jpg")
    return tmp_path


def test_an_image_folder(image_folder, tiny_config):
    config = tiny_config("data.name=folder", f"data.path={image_folder}", "data.val_fraction=0.5").data
    train, val = data.load_splits(config, "train").values()
    test = data.load_splits(config, "test")["test"]
    assert train.class_names == ["cat", "dog"]
    assert [len(s.labels) for s in (train, val, test)] == [6, 6, 4] and test.labels.tolist() == [0, 0, 1, 1]
    assert data.ImageDataset(test, 16)[0, 3][0].shape == (16, 16, 3)


def test_faults_of_an_image_folder_are_named(image_folder, tiny_config, tmp_path):
    def load(part, path=image_folder):
        return data.load_splits(tiny_config("data.name=folder", f"data.path={path}").data, part)

    with pytest.raises(UserError, match="needs train/<class>"):
        load("train", tmp_path / "absent")
    (image_folder / "val" / "cat" / "broken.png").write_bytes(b"no image")
    images = load("test")["test"]
    with pytest.raises(UserError, match=r"cannot read the image .*broken.png"):
        [data.ImageDataset(images, 8)[0, i] for i in range(len(images.labels))]
    (image_folder / "val" / "horse").mkdir()
    with pytest.raises(UserError, match="val/horse: no such class"):
        load("test")


def test_a_head_of_another_size_than_the_data_is_an_error(tiny_config):
    with pytest.raises(UserError, match="model.classes is 7 but digits has 10 classes: set model.classes=10"):
        ImageClassification(tiny_config("model.classes=7")).batches("test")


def test_a_share_that_holds_out_nothing_is_an_error(tiny_config):
    with pytest.raises(UserError, match="data.val_fraction 0.001 holds out no image of any class"):
        ImageClassification(tiny_config("data.val_fraction=0.001")).images("train")
