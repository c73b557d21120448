"""Image files: which ones are read, where they lie in a folder, and their pixels as the RGB that a viewer shows."""

import functools
import os
from collections import Counter
from pathlib import Path
from typing import List, NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError

# formats that Pillow knows and does not decode itself: EPS takes Ghostscript, WMF takes Windows, the others have no reader
NOT_DECODED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
NOT_READ, LINKED_AGAIN = "that Pillow does not read", "linked a second time"  # why something is left out
KINDS_TOLD = 5
END_OF_JPEG = b"\xff\xd9"


@functools.cache
def suffixes():
    """What the names of image files end in, such as ".jpg": that of each format that Pillow decodes."""
    Image.init()
    return frozenset(
        suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN and format not in NOT_DECODED
    )


class Found(NamedTuple):
    """What lies in a folder; `left_out` holds (reason, path) of files and of linked folders."""

    images: List[Path]
    left_out: List[Tuple[str, Path]]


def search(folder):
    """All that lies anywhere in `folder`, sorted, as Found; hidden files and folders (.ipynb_checkpoints, ._1.jpg) are neither.

    Linked folders are followed, each folder once, and none that `folder` itself lies in.

    Raises:
        OSError: a folder that cannot be read.
    """
    images, left_out = [], []
    seen = {_identity(path) for path in (folder, *folder.absolute().parents, *folder.resolve().parents)}
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        inside = sorted(Path(parent, name) for name in folders if not name.startswith("."))
        folders.clear()
        for path in inside:
            if _identity(path) in seen:
                left_out.append((LINKED_AGAIN, path))
            else:
                seen.add(_identity(path))
                folders.append(path.name)
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in suffixes():
                images.append(path)
            else:
                left_out.append((NOT_READ, path))
    return Found(sorted(images), sorted(left_out, key=lambda reason_and_path: reason_and_path[1]))


def in_words(left_out):
    """How many were left out and why, such as "3 .heic, 1 .txt that Pillow does not read (cat/1.heic is the first)"."""
    parts = []
    for reason in dict.fromkeys(reason for reason, _ in left_out):
        paths = [path for why, path in left_out if why == reason]
        kinds = Counter(path.suffix.lower() or "without a suffix" for path in paths).most_common()
        told = [f"{count} {kind}" for kind, count in kinds[:KINDS_TOLD]] if reason == NOT_READ else [str(len(paths))]
        told += [f"{sum(count for _, count in kinds[KINDS_TOLD:])} others"] if reason == NOT_READ and kinds[KINDS_TOLD:] else []
        parts.append(f"{', '.join(told)} {reason} ({paths[0]} is the first)")
    return "; ".join(parts)


def open_image(path):
    """An image file of 8 or 16 bits a channel as RGB of 8, upright as its EXIF orientation says; the first frame of several.

    What is transparent is seen on white.

    Raises:
        UserError: it is absent or no such image.
    """
    try:
        with Image.open(path) as file:
            _check_mode(file)
            image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I;16"):  # Pillow's own conversion makes white of all from 255 on
            shades = np.asarray(image)
            shades = np.where(shades == image.info.get("transparency"), 65535, shades)
            image = Image.fromarray((shades >> 8).astype("uint8"))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except Exception as error:  # damaged files make Pillow raise OSError, SyntaxError, struct.error, TypeError and more
        raise UserError(f"cannot read the image {path}: {error}") from None


def fault(path):
    """Why `open_image` cannot read a file, in its words, or None; decoded is only what its header or its end makes doubtful.

    Of formats other than PNG and JPEG what is cut short may stay unseen.
    """
    try:
        with open(path, "rb") as content, Image.open(content) as image:
            _check_mode(image)
            if image.format == "JPEG":
                content.seek(-len(END_OF_JPEG), os.SEEK_END)
                doubtful = content.read() != END_OF_JPEG
            else:
                image.verify()  # the checksums of a PNG
                doubtful = False
    except Exception:  # as above
        doubtful = True
    if doubtful:  # a PNG without its last bytes is read all the same, and so is a JPEG with something behind it
        try:
            open_image(path)
        except UserError as error:
            return str(error)
    return None


def _check_mode(image):
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel do not say which value is white")


def _identity(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _raise(error):
    raise error
