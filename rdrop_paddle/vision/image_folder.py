"""A data set as a folder: train/<class>/ and val/<class>/ with the images of each class anywhere in them."""

import itertools
from pathlib import Path

import numpy as np

from ..console import say
from ..errors import UserError
from .image_files import Found, in_words, search

STRAY = "in no class folder"


def class_names(path):
    """The names of the classes, sorted; None where there is no such folder."""
    train = Path(path).expanduser() / "train"
    return _class_folders(train) if path and train.is_dir() else None


def read(path, part):
    """(paths of the files, object [N]; labels, int64 [N]; names of the classes) of `path`/train or `path`/val.

    What is left out there is told in a line on stderr.

    Raises:
        UserError: folders or images that are missing.
    """
    if not path:
        raise UserError("data.path is empty: set data.path=FOLDER, with train/<class>/*.jpg and val/<class>/*.jpg in it")
    root = Path(path).expanduser()
    train = root / "train"
    if not train.is_dir():
        raise UserError(f"data.path {root}: an image folder needs train/<class>/*.jpg and val/<class>/*.jpg in it")
    if not (root / part).is_dir():
        raise UserError(f"data.path {root}: no {part}/<class>/*.jpg to test on; eval.split=val tests on what train/ holds out")
    say(f"looking for the images in {root / part}")
    names = _class_folders(train)
    unknown = sorted(set(_class_folders(root / part)) - set(names))
    if unknown:
        raise UserError(f"{root / part / unknown[0]}: no such class in {train}")
    found = {name: _of_class(root / part / name) for name in names}
    strays = [(STRAY, path) for path in _visible(root / part) if not path.is_dir()]
    if left_out := [*itertools.chain.from_iterable(of_class.left_out for of_class in found.values()), *strays]:
        say(f"left out: {in_words(left_out)}")
    if not any(of_class.images for of_class in found.values()):
        raise UserError(f"{root / part}: no images in its class folders")
    if part == "train":
        _check_that_none_is_empty(train, found)
    files = [file for of_class in found.values() for file in of_class.images]
    labels = np.repeat(np.arange(len(names)), [len(of_class.images) for of_class in found.values()])
    return np.asarray(files, dtype=object), labels, names


def _check_that_none_is_empty(train, found):
    for name, of_class in found.items():
        if not of_class.images:
            has = f"only {in_words(of_class.left_out)}: save them as .jpg or .png" if of_class.left_out else "remove the folder"
            raise UserError(f"{train / name}: no images of this class to train on; {has}")


def _class_folders(part):
    return [path.name for path in _visible(part) if path.is_dir()]


def _visible(folder):
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _of_class(folder):
    return search(folder) if folder.is_dir() else Found([], [])  # val/ need not have every class
