import itertools
import os
import shutil
import sys

import numpy as np
import paddle
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from rdrop_paddle import UserError
from rdrop_paddle.errors import what_is_missing
from rdrop_paddle.vision import data
from rdrop_paddle.vision.augmentation import Augmentation
from rdrop_paddle.vision.task import ImageClassification


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
    for images in splits.values():
        pixels = images.read(np.arange(len(images.labels)))
        assert pixels.shape == (len(images.labels), 8, 8, 3) and pixels.dtype == np.uint8 and pixels.max() == 255


def test_the_digits_are_those_that_scikit_learn_loads_and_without_it_its_package_is_named(tiny_config, monkeypatch):
    images = [data.load_splits(tiny_config("data.val_fraction=0").data, part)[part] for part in ("train", "test")]
    found = {(i.read([row])[0, ..., 0].tobytes(), int(i.labels[row])) for i in images for row in range(len(i.labels))}
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype("uint8")
    assert found == {(image.tobytes(), int(label)) for image, label in zip(grey, digits.target)} and len(found) == 1797
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not there
    with pytest.raises(ModuleNotFoundError) as error:
        data.load_splits(tiny_config().data, "test")
    assert what_is_missing("train.py", error.value).startswith("train.py needs scikit-learn: pip install ")


def read(config, workers, rank=0, ranks=1):
    """Each image as the model sees it in the first two updates, by its index."""
    task = ImageClassification(config)
    task.rank, task.ranks = rank, ranks
    config.data.workers = workers
    batches = list(itertools.islice(task.batches("train"), 4 // ranks))
    return {int(i): image for batch in batches for i, image in zip(batch[-1], task.model_input(batch).numpy())}


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_augmentation_does_not_depend_on_workers_or_ranks(kind, tiny_config, digits_folder):
    files = ["data.name=folder", f"data.path={digits_folder}"] if kind == "files" else []
    sizes = ["train.batch_size=16", "train.micro_batch_size=8"]
    config = tiny_config("data.crop_scale=0.3", "data.flip=true", "model.image_size=16", *sizes, *files)
    alone = read(config, workers=0)
    with_workers = read(config, workers=2)
    two_ranks = read(config, 0, rank=0, ranks=2) | read(config, 0, rank=1, ranks=2)
    assert len(alone) == 32 and alone.keys() == with_workers.keys() == two_ranks.keys()
    for index, image in alone.items():
        np.testing.assert_array_equal(image, with_workers[index])
        np.testing.assert_array_equal(image, two_ranks[index])


def seen(task, augmentation, epoch=0):
    """Ten training images as the model sees them in `epoch`."""
    dataset = data.dataset(task.images("train"), task.config.model.image_size, augmentation)
    return task.model_input(list(map(paddle.to_tensor, dataset.read(epoch, np.arange(40, 0, -4))))).numpy()


def test_files_are_cropped_mirrored_and_resized_like_arrays(tiny_config, digits_folder):
    sizes = ["data.val_fraction=0", "model.image_size=24"]
    arrays = ImageClassification(tiny_config(*sizes))
    files = ImageClassification(tiny_config(*sizes, "data.name=folder", f"data.path={digits_folder}"))
    arrays.images("train"), files.images("train")
    names = [int(path.stem) for path in files.images("train").source]
    arrays._images["train"] = arrays.images("train").take(names)  # in the folder's order
    for augmentation in (Augmentation(), Augmentation(3, 0.3), Augmentation(3, 0.3, True)):
        found, expected = seen(files, augmentation, epoch=2), seen(arrays, augmentation, epoch=2)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1.001 / 127.5)


def test_epochs_and_seeds_augment_differently_and_evaluation_never_does(tiny_config):
    task = ImageClassification(tiny_config("model.image_size=16"))
    augmented = seen(task, Augmentation(3, 0.3))
    np.testing.assert_array_equal(augmented, seen(task, Augmentation(3, 0.3)))
    for other in (seen(task, Augmentation(3, 0.3), epoch=1), seen(task, Augmentation(4, 0.3))):
        assert (augmented != other).any(axis=(1, 2, 3)).mean() > 0.5
    batch = next(task.batches("val"))
    expected = Image.fromarray(task.images("val").read(5)).resize((16, 16), Image.Resampling.BILINEAR)
    found = (task.model_input(batch)[5].transpose([1, 2, 0]).numpy() + 1) * 127.5
    np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=1.001)


def test_training_images_are_augmented_as_the_config_says(tiny_config):
    task = ImageClassification(tiny_config("train.seed=5", "data.crop_scale=0.3", "data.flip=true"))
    _, *drawn, _, indices = (column.numpy() for column in next(task.batches("train")))
    for found, expected in zip(drawn, Augmentation(5, 0.3, True).draw(0, indices, 8, 8)):
        np.testing.assert_array_equal(found, expected)


def test_example_images_are_what_the_first_batch_shows_the_model(tiny_config):
    task = ImageClassification(tiny_config("model.image_size=16", "data.flip=true"))
    (grid,) = task.examples().values()  # 4 x 4 images
    assert grid.shape == (4 * 16, 4 * 16, 3) and grid.dtype == np.uint8
    examples = grid.reshape(4, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 16, 3)
    expected = (task.model_input(next(task.batches("train"))).numpy()[:16].transpose(0, 2, 3, 1) + 1) * 127.5
    np.testing.assert_allclose(examples, expected, rtol=0, atol=0.501)


def test_the_examples_of_a_small_data_set_fill_a_smaller_square(tiny_config):
    config = tiny_config("data.images_per_class=1", "train.batch_size=10", "train.micro_batch_size=5")
    (grid,) = ImageClassification(config).examples().values()
    assert grid.shape == (3 * 8, 3 * 8, 3)  # of ten images, one is left over


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_every_split_is_normalised_by_the_config_and_the_examples_show_the_images_themselves(kind, tiny_config, digits_folder):
    files = ["data.name=folder", f"data.path={digits_folder}"] if kind == "files" else []
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    settings = [f"model.mean={mean.tolist()}", f"model.std={std.tolist()}"]
    sizes = ["model.image_size=16", "train.batch_size=16", "train.micro_batch_size=8", *files]
    by_halves, by_config = (ImageClassification(tiny_config(*sizes, *more)) for more in ([], settings))
    for split in ("train", "val", "test"):
        shares, found = (task.model_input(next(task.batches(split))).numpy() for task in (by_halves, by_config))
        expected = (shares * 0.5 + 0.5 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    (shown,), (expected,) = by_config.examples().values(), by_halves.examples().values()
    np.testing.assert_allclose(shown.astype(int), expected, atol=1)


def test_the_pixels_of_an_array_travel_as_they_were_decoded(tiny_config):
    task = ImageClassification(tiny_config("model.image_size=16"))
    images, *_, labels, indices = (column.numpy() for column in next(task.batches("train")))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, task.images("train").read(indices))
    np.testing.assert_array_equal(labels, task.images("train").labels[indices])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_while_reading_reaches_the_reader(tmp_path, workers):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = data.Images(np.array([tmp_path / "broken.jpg"]), np.arange(1), np.zeros(1, "int64"), ["cat"])
    with pytest.raises(UserError, match="broken.jpg"):
        list(data.reader(data.dataset(images, 8, Augmentation()), [(0, np.array([0]))] * 20, workers))


@pytest.fixture
def digits_folder(tmp_path, tiny_config):
    """An image folder with the first 100 training digits, each file named by its index."""
    digits = data.load_splits(tiny_config("data.val_fraction=0").data, "train")["train"]
    for part in ("train", "val"):
        for index, (image, label) in enumerate(zip(digits.read(np.arange(100)), digits.labels)):
            path = tmp_path / part / str(label) / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return tmp_path


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
    images, labels, indices = data.dataset(test, 16, Augmentation()).read(0, np.array([3, 0]))
    assert images.shape == (2, 16, 16, 3) and labels.tolist() == [1, 0] and indices.tolist() == [3, 0]


def test_data_are_known_by_their_content_wherever_they_are(image_folder, tiny_config, tmp_path):
    def fingerprint(folder):
        config = tiny_config("data.name=folder", f"data.path={folder}", "data.val_fraction=0").data
        return data.fingerprint(data.load_splits(config, "train")["train"])

    before = fingerprint(image_folder)
    assert fingerprint(shutil.copytree(image_folder, tmp_path / "elsewhere")) == before
    image = image_folder / "train" / "cat" / "3.jpg"
    image.write_bytes(image.read_bytes() + b"1")
    longer = fingerprint(image_folder)
    image.rename(image.with_name("33.jpg"))
    renamed = fingerprint(image_folder)
    image.with_name("33.jpg").rename(image.with_name(os.fsdecode(b"\xc3\xa8 or \xb0.jpg")))  # the second is no UTF-8
    assert len({before, longer, renamed, fingerprint(image_folder)}) == 4

    black = np.zeros([2500, 2, 2, 3], "uint8")  # more than are read at once
    one_pixel = black.copy()
    one_pixel[2400, 1, 1, 2] = 1
    everything = np.arange(2500)
    images = data.Images(black, everything, everything % 5, [])
    pixel = data.Images(one_pixel, everything, everything % 5, [])
    labels = data.Images(black, everything, everything % 7, [])
    assert data.fingerprint(images.take(everything)) == data.fingerprint(images)
    assert data.fingerprint(data.Images(black, everything[::-1], everything % 5, [])) == data.fingerprint(images)
    assert len({data.fingerprint(some) for some in (images, pixel, labels, images.take(everything[:2400]))}) == 4


def test_faults_of_an_image_folder_are_named(image_folder, tiny_config, tmp_path):
    def load(part, path=image_folder):
        return data.load_splits(tiny_config("data.name=folder", f"data.path={path}").data, part)

    with pytest.raises(UserError, match="needs train/<class>"):
        load("train", tmp_path / "absent")
    (image_folder / "val" / "cat" / "broken.png").write_bytes(b"no image")
    images = load("test")["test"]
    with pytest.raises(UserError, match=r"cannot read the image .*broken.png"):
        data.dataset(images, 8, Augmentation()).read(0, np.arange(len(images.labels)))
    (image_folder / "val" / "horse").mkdir()
    with pytest.raises(UserError, match="val/horse: no such class"):
        load("test")
    (image_folder / "train" / "horse").mkdir()
    with pytest.raises(UserError, match="train/horse: no images of this class to train on; remove the folder"):
        load("train")
    with pytest.raises(UserError, match=r"data.path is empty: set data.path=FOLDER, with train/<class>/"):
        load("train", "''")


def test_a_folder_without_val_is_tested_on_what_is_held_out(image_folder, tiny_config):
    shutil.rmtree(image_folder / "val")
    settings = ["data.name=folder", f"data.path={image_folder}", "data.val_fraction=0.5", "model.classes=2"]
    with pytest.raises(UserError, match="no val/<class>/.* to test on; eval.split=val tests on what train/ holds out"):
        ImageClassification(tiny_config(*settings)).read_splits()
    task = ImageClassification(tiny_config(*settings, "eval.split=val"))
    task.read_splits()
    assert len(task.images("train").labels) == len(task.images("val").labels) == 6


def test_hidden_files_and_folders_are_no_images_and_no_classes(image_folder, tiny_config):
    for part in ("train", "val"):
        (image_folder / part / ".ipynb_checkpoints").mkdir()
        (image_folder / part / "cat" / "._0.jpg").write_bytes(b"no image")
    config = tiny_config("data.name=folder", f"data.path={image_folder}", "data.val_fraction=0").data
    train, test = data.load_splits(config, "train")["train"], data.load_splits(config, "test")["test"]
    assert train.class_names == test.class_names == ["cat", "dog"]
    assert (len(train.labels), len(test.labels)) == (12, 4)


def test_a_head_of_another_size_than_the_data_is_an_error(tiny_config):
    with pytest.raises(UserError, match="model.classes is 7 but digits has 10 classes: set model.classes=10"):
        ImageClassification(tiny_config("model.classes=7")).batches("test")


def test_for_a_folder_with_other_classes_the_message_names_it_and_the_value_to_set(image_folder, tiny_config):
    task = ImageClassification(tiny_config("data.name=folder", f"data.path={image_folder}"))
    with pytest.raises(UserError, match=f"model.classes is 10 but {image_folder} has 2 classes: set model.classes=2"):
        task.images("train")


def test_a_share_that_holds_out_nothing_is_an_error(tiny_config):
    with pytest.raises(UserError, match="data.val_fraction 0.001 holds out no image of any class"):
        ImageClassification(tiny_config("data.val_fraction=0.001")).images("train")
