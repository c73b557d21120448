"""Plain text to model: where it lies, where it is downloaded from, and its lines."""

import hashlib
import shutil
import zipfile
import zlib
from pathlib import Path

from ..config import data_root
from ..console import say
from ..durability import files
from ..errors import UserError
from .corpora import fetched
from .parallel import read_lines

WIKITEXT103 = "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip"
WIKITEXT103_SHA256 = "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"
FOLDERS = {"wikitext103": "wikitext-103", "war_and_peace": "war-and-peace"}  # under RDROP_DATA
SPLITS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
FORMS = ("{}.txt", "wiki.{}.tokens", "wap.{}.txt")  # of the names of their files; each may have .gz behind it


def read_split(config, split):
    """The lines of a split by a TextDataConfig, without empty ones where each is a sample.

    Raises:
        UserError: the files are absent or damaged, or there is no line with text.
    """
    path = _file_of(locate(config), split)
    say(f"reading {path}")
    lines = read_lines(path)
    lines = [line for line in lines if line] if config.break_mode == "line" else lines
    if not any(lines):
        raise UserError(f"{path} has no line with text")
    return lines


def locate(config):
    """The folder with the files of all splits: data.path, or that of the text under RDROP_DATA, fetched on first use."""
    if config.path:
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"data.path {folder} is no folder: give one with train.txt, val.txt and test.txt")
        return folder
    if config.name == "folder":
        raise UserError("data.path is empty: set data.path=FOLDER, with train.txt, val.txt and test.txt in it")
    folder = data_root() / FOLDERS[config.name]
    if not folder.is_dir():
        if config.name == "war_and_peace":
            raise UserError(
                f"{folder} is not there: put wap.train.txt, wap.valid.txt and wap.test.txt there, the lines of Project "
                "Gutenberg's book 2600 split at random"
            )
        files.once(data_root(), folder.is_dir, lambda: _fetch_wikitext103(folder))
    return folder


def _file_of(folder, split):
    names = [form.format(name) for name in SPLITS[split] for form in FORMS]
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise UserError(f"{folder} must have {' or '.join(names)}, plain or .gz; there is {there}")


def _fetch_wikitext103(folder):
    names = [f"wiki.{name}.tokens" for name in ("train", "valid", "test")]
    archive = fetched(WIKITEXT103, "wikitext-103-v1.zip", folder.parent, f"put {', '.join(names)} into {folder}")
    if files.sha256_of(archive) != WIKITEXT103_SHA256:
        raise UserError(f"{archive} is not the archive that was published: remove it and start again")
    say(f"unpacking {archive}")
    try:
        with zipfile.ZipFile(archive) as packed:
            content = [(name, packed.read(f"wikitext-103/{name}")) for name in names]
    except (KeyError, zipfile.BadZipFile, OSError, zlib.error) as error:
        raise UserError(f"{archive}: damaged archive ({error}); remove it and start again") from None
    with files.writing(folder):
        shutil.rmtree(folder.with_name(folder.name + files.UNFINISHED), ignore_errors=True)  # of a process that was killed
        files.write_folder(folder, content)
        archive.unlink()


def fingerprint(lines):
    """The sha256 of lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
