"""Images and labels of a split, the order in which ranks read them, and their batches.

Every random choice is a pure function of (seed, epoch, index): neither the number of workers nor of ranks changes it.
"""

import hashlib
import importlib.util
import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import List

import numpy as np
from PIL import Image

from ..config import data_root
from ..console import reported, say
from ..errors import UserError
from . import cifar, image_files, image_folder

CIFAR = {"cifar100": cifar.CIFAR100, "cifar10": cifar.CIFAR10}
CHOICE_SEED = 0  # of the held-out part and the subset: the same images whatever the training seed
DIGITS = tuple("0123456789")
DIGITS_TEST_SHARE = 0.4
HEADERS_AT_ONCE, HEADER_THREADS = 64, 8  # of files whose headers are looked at


@dataclass(frozen=True)
class Images:
    """Images of one split with integer labels: some rows of `source`, of which nothing is copied."""

    source: np.ndarray  # uint8 [M, H, W, 3], perhaps mapped from a file, or paths of files [M]
    rows: np.ndarray  # int64 [N]
    labels: np.ndarray  # int64 [N]
    class_names: List[str]

    @property
    def are_files(self):
        return self.source.ndim == 1

    def take(self, chosen):
        return Images(self.source, self.rows[chosen], self.labels[chosen], self.class_names)

    def read(self, indices):
        """The pixels or paths of the images with these indices, 0 to N - 1."""
        return self.source[self.rows[indices]]


def load_splits(config, part):
    """By a DataConfig, {"train": Images, "val": Images} of the official part "train", or {"test": Images} of "test".

    "val" is a stratified, seeded part of the official training images, which "train" leaves out.

    Raises:
        UserError: data that are absent, damaged, or too few for what the config asks.
    """
    official = _official_images(config, part)
    if part == "test":
        return {"test": official}
    train, val = split_indices(official.labels, config.val_fraction, config.images_per_class)
    if config.val_fraction > 0 and not len(val):
        raise UserError(f"data.val_fraction {config.val_fraction} holds out no image of any class: raise it, or set 0")
    return {"train": official.take(train), "val": official.take(val)}


def class_names(config):
    """The names of the classes by a DataConfig, without reading the data; None for an image folder that is not here."""
    if config.name in CIFAR:
        return CIFAR[config.name].class_names.split()
    if config.name == "digits":
        return list(DIGITS)
    return image_folder.class_names(config.path)


def fingerprint(images):
    """The sha256 of an Images: of its labels and pixels, or of the names and sizes of its files."""
    digest = hashlib.sha256(images.labels.tobytes())
    for indices in np.array_split(np.arange(len(images.labels)), len(images.labels) // 1000 + 1):  # little of it in memory
        if images.are_files:
            for path in images.read(indices):
                # fsencode: a name need not be UTF-8
                digest.update(os.fsencode(f"{path.parent.name}/{path.name} {path.stat().st_size}\n"))
        else:
            digest.update(images.read(indices))
    return digest.hexdigest()


def split_indices(labels, val_fraction, images_per_class):
    """(train, val): sorted indices, the same share of each class held out, then at most images_per_class kept.

    Raises:
        UserError: a class has fewer images left than images_per_class.
    """
    train, val = [], []
    for label in np.unique(labels):
        members = np.random.default_rng([CHOICE_SEED, label]).permutation(np.flatnonzero(labels == label))
        held_out = round(len(members) * val_fraction)
        rest = members[held_out:]
        if images_per_class is not None and len(rest) < images_per_class:
            raise UserError(f"data.images_per_class is {images_per_class} but class {label} has {len(rest)} images to train on")
        val.append(members[:held_out])
        train.append(rest[:images_per_class])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def _official_images(config, part):
    if config.name in CIFAR:
        archive = CIFAR[config.name]
        return _all_of(*cifar.read_decoded(archive, config.path, data_root(), part))
    if config.name == "digits":
        return _digits(part)
    return _all_of(*image_folder.read(config.path, "train" if part == "train" else "val"))


def _all_of(source, labels, class_names):
    return Images(source, np.arange(len(labels)), labels, class_names)


def _digits(part):
    """scikit-learn's 1,797 real scans of digits, 8x8, grey; a fixed, stratified 40 % are the test set."""
    say(f"reading scikit-learn's digits, part {part}")
    values, labels = np.split(_digits_table(), [64], axis=1)
    labels = labels[:, 0].astype("int64")
    train, test = split_indices(labels, DIGITS_TEST_SHARE, None)
    chosen = train if part == "train" else test
    grey = np.round(values[chosen].reshape(-1, 8, 8) * (255 / 16)).astype("uint8")  # 0..16 before
    return _all_of(np.repeat(grey[..., None], 3, axis=-1), labels[chosen], list(DIGITS))


def _digits_table():
    """[1797, 65]: 64 values and the label of each scan, from the file that `sklearn.datasets.load_digits` reads.

    Importing scikit-learn for it takes two seconds and 100 MB in every rank.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")


def check_files(splits):
    """Look at the header of each file of some Images, in threads, with a word now and then on how far that is.

    Raises:
        UserError: some are no images; it names up to three.
    """
    paths = [path for images in splits if images.are_files for path in images.read(np.arange(len(images.labels)))]
    blocks = [(0, range(at, min(at + HEADERS_AT_ONCE, len(paths)))) for at in range(0, len(paths), HEADERS_AT_ONCE)]
    looked_at = itertools.chain.from_iterable(reader(Headers(paths), blocks, HEADER_THREADS))
    broken = sorted((path, fault) for path, fault in reported(looked_at, "looking at image", len(paths)) if fault)
    if broken:
        others = [str(path) for path, _ in broken[1:3]] + ([f"{len(broken) - 3} more"] if len(broken) > 3 else [])
        raise UserError(broken[0][1] + (f"; nor {', '.join(others)}" if others else ""))


class Headers:
    """What the headers of files tell, for `reader`."""

    def __init__(self, paths):
        self.paths = paths

    def read(self, epoch, indices):
        """[(path, what is wrong with it or None)]."""
        return [(self.paths[index], image_files.fault(self.paths[index])) for index in indices]


class ArrayDataset:
    """Batches of Images that are arrays: pixels as they were decoded, cropped and resized later on the training device."""

    def __init__(self, images, augmentation):
        self.images = images
        self.augmentation = augmentation

    def read(self, epoch, indices):
        """[images uint8 [N, H, W, 3], boxes int64 [N, 4], flips bool [N], labels int64 [N], indices int64 [N]]."""
        height, width = self.images.source.shape[1:3]
        boxes, flips = self.augmentation.draw(epoch, indices, width, height)
        return [self.images.read(indices), boxes, flips, self.images.labels[indices], indices]


class FileDataset:
    """Batches of Images that are files: of sizes of their own, so that Pillow crops and resizes each as it is decoded."""

    def __init__(self, images, augmentation, image_size):
        self.images = images
        self.augmentation = augmentation
        self.image_size = image_size

    def read(self, epoch, indices):
        """[images uint8 [N, image_size, image_size, 3], labels int64 [N], indices int64 [N]].

        Raises:
            UserError: a file that is no image.
        """
        images = np.stack([self._read_image(epoch, index, path) for index, path in zip(indices, self.images.read(indices))])
        return [images, self.images.labels[indices], indices]

    def _read_image(self, epoch, index, path):
        image = image_files.open_image(path)
        (box,), (flip,) = self.augmentation.draw(epoch, [index], *image.size)
        image = image.crop(box.tolist()).resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)


def dataset(images, image_size, augmentation):
    """An ArrayDataset or a FileDataset, as the Images are arrays or files."""
    return FileDataset(images, augmentation, image_size) if images.are_files else ArrayDataset(images, augmentation)


def reader(dataset, order, workers):
    """What `dataset` reads for each (epoch, indices) in `order`.

    With workers, that many threads read ahead (Pillow decodes and resizes outside Python's lock). Not Paddle's
    DataLoader: an error in its reading thread leaves the training waiting for ever.
    """
    if workers == 0:
        for epoch, indices in order:
            yield dataset.read(epoch, indices)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque()
        try:
            for epoch, indices in order:
                ahead.append(pool.submit(dataset.read, epoch, indices))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for batch in ahead:
                batch.cancel()
