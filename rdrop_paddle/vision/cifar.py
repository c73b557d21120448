"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official python archives: verified first, then read safely."""

import functools
import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
import pooch

from .. import safe_pickle
from ..console import say
from ..durability import files
from ..errors import UserError


@dataclass(frozen=True)
class CifarArchive:
    """Where an archive comes from and what must be in it. `md5` holds the archive's members in `folder`."""

    url: str
    archive_md5: str
    folder: str
    md5: Dict[str, str]
    members: Dict[str, Tuple[str, ...]]  # split -> member names
    meta: str
    label_key: str
    class_names_key: str
    class_names: str  # those of the archive, blanks between them, for users who have weights and no archive

    @property
    def file_name(self):
        return self.url.rpartition("/")[2]


CIFAR100 = CifarArchive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    members={"train": ("train",), "test": ("test",)},
    meta="meta",
    label_key="fine_labels",
    class_names_key="fine_label_names",
    class_names="""
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
        caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
        forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
        mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
        possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
        sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm
    """,
)
CIFAR10 = CifarArchive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    members={"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    label_key="labels",
    class_names_key="label_names",
    class_names="airplane automobile bird cat deer dog frog horse ship truck",
)


def locate(archive, path, data_root):
    """The archive or unpacked folder to read: `path` if given, else what lies in `data_root`, else a fresh download.

    Raises:
        UserError: `path` does not exist, or the download failed; the message says which file to put where.
    """
    if path:
        given = Path(path).expanduser()
        if not given.exists():
            raise UserError(f"data.path {given} does not exist: give {archive.file_name} or its unpacked folder")
        return given
    for name in (archive.file_name, archive.file_name.removesuffix(".gz"), archive.folder):
        if (data_root / name).exists():
            return data_root / name
    return _download(archive, data_root)


def read_decoded(archive, path, data_root, split):
    """As `read`, of what `locate` finds; the images are mapped from a file that is written to `data_root` on first use.

    Mapped, they cost memory once for all ranks, and only as far as they are used; and starting takes a second less. The file is
    found by the official md5 and verified; one that is damaged is written anew.

    Raises:
        UserError: as `locate` and `read`.
    """
    source = locate(archive, path, data_root)
    folder = data_root / "decoded" / f"{archive.folder}-{split}-{archive.md5[archive.members[split][0]]}"
    decoded = functools.cache(lambda: read(archive, source, split))
    try:
        files.once(data_root, lambda: files.fault(folder) is None, lambda: _write_decoded(folder, *decoded()))
    except OSError:  # no room, or not ours to write
        return decoded()
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return images, np.load(folder / "labels.npy", allow_pickle=False), json.loads((folder / "classes.json").read_bytes())


def _write_decoded(folder, images, labels, class_names):
    if folder.exists():
        files.remove_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    files.remove_unfinished(folder.parent)  # of a process that was killed
    arrays = [(f"{name}.npy", _npy_bytes(array)) for name, array in (("images", images), ("labels", labels))]
    files.write_folder(folder, [*arrays, ("classes.json", files.json_bytes(class_names))])


def _npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def read(archive, path, split):
    """(images uint8 [N, 32, 32, 3], labels int64 [N], class names) of the split "train" or "test".

    Raises:
        UserError: a member is missing, its md5 is not the official one, or its pickle asks for more than arrays.
    """
    names = archive.members[split]
    say(f"unpacking and checking {path}, part {split}")
    contents = _verified_members(archive, path, [*names, archive.meta])
    meta = safe_pickle.loads(contents[archive.meta], f"{path}, member {archive.meta}", safe_pickle.NUMPY_ARRAYS)
    # each rank reads the images: what is parsed is let go at once, and a single part is not copied
    parts = [_images_and_labels(archive, contents.pop(name), f"{path}, member {name}") for name in names]
    images, labels = parts[0] if len(parts) == 1 else (np.concatenate(arrays) for arrays in zip(*parts))
    return images, labels, list(meta[archive.class_names_key])


def _download(archive, data_root):
    say(f"downloading {archive.url} to {data_root}")
    downloader = pooch.HTTPDownloader(progressbar=True)
    try:
        fetched = pooch.retrieve(archive.url, f"md5:{archive.archive_md5}", archive.file_name, data_root, downloader=downloader)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
        reason = str(error).split("\n")[0]
        raise UserError(
            f"could not download {archive.url} ({reason}): put {archive.file_name} at {data_root / archive.file_name}"
        ) from None
    return Path(fetched)


def _verified_members(archive, path, names):
    contents = _members_of_folder(archive, path, names) if path.is_dir() else _members_of_tar(archive, path, names)
    for name, content in contents.items():
        found = hashlib.md5(content).hexdigest()
        if found != archive.md5[name]:
            raise UserError(
                f"{path}, member {name}: md5 {found}, the official one is {archive.md5[name]}; get it again from {archive.url}"
            )
    return contents


def _members_of_folder(archive, path, names):
    folder = path if (path / names[0]).is_file() else path / archive.folder
    try:
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}; unpack {archive.file_name} there") from None


def _members_of_tar(archive, path, names):
    wanted = {f"{archive.folder}/{name}": name for name in names}
    contents = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:  # one pass: seeking back in a compressed file would unpack it again
                if member.name in wanted and member.isfile():
                    contents[wanted[member.name]] = tar.extractfile(member).read()
                if len(contents) == len(wanted):
                    return contents
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged archive ({error}); get it again from {archive.url}") from None
    missing = next(member for member, name in wanted.items() if name not in contents)
    raise UserError(f"{path}: no member {missing}; get the archive from {archive.url}")


def _images_and_labels(archive, content, source):
    entry = safe_pickle.loads(content, source, safe_pickle.NUMPY_ARRAYS)
    del content
    pixels = entry["data"].value.reshape(-1, 3, 32, 32)  # uint8, channels first
    labels = np.asarray(entry[archive.label_key], dtype="int64")
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels
