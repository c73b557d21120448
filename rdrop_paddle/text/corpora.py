"""Parallel corpora: where they lie, where they are downloaded from, and how they are prepared."""

import gzip
import hashlib
import re
import tarfile
from pathlib import Path

import pooch

from ..config import data_root
from ..console import say
from ..durability import files
from ..errors import UserError
from .parallel import choose, read_pairs

MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
# sha256 of the unpacked text: the archives are packed anew now and then
MULTI30K_SHA256 = {
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
}
IWSLT14 = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
IWSLT14_TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
LONGEST, RATIO, HELD_OUT = 175, 1.5, 23  # words; of the longer side to the shorter; every 23rd pair selects
NAMES = {"train": ("train",), "val": ("val", "valid"), "test": ("test", "test_2016_flickr")}  # of a split's files


def read_split(config, split):
    """The Pairs of a split by a ParallelDataConfig.

    Raises:
        UserError: files that are absent, damaged or do not belong together, or fewer pairs than the config asks.
    """
    folder, languages = locate(config), (config.source, config.target)
    say(f"reading {folder}, {split}.{config.source} and .{config.target}")
    pairs = read_pairs(folder, NAMES[split], languages, training=split == "train")
    return choose(pairs, config.sentences) if split == "train" else pairs


def locate(config):
    """The folder with the files of all splits: data.path, or that of the corpus under RDROP_DATA, fetched on first use."""
    if config.path:
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"data.path {folder} is no folder: give one with train, val and test .{config.source} and .{config.target}"
            )
        return folder
    if config.name == "folder":
        raise UserError("data.path is empty: set data.path=FOLDER, with train, val and test .SOURCE and .TARGET in it")
    folder = data_root() / config.name
    if config.name == "multi30k":
        _check_languages(config, ("de", "en"))
        for name in MULTI30K_SHA256:
            if not (folder / name).exists():
                _download_multi30k(folder, name)
    elif config.name == "iwslt14":
        _check_languages(config, ("de", "en"))
        if files.fault(folder):
            _prepare_iwslt14(folder)
    elif not folder.is_dir():
        raise UserError(
            f"{folder} is not there: prepare WMT14 with fairseq's prepare-wmt14en2de.sh or -en2fr.sh, and put its train, valid "
            f"and test .{config.source} and .{config.target}, before byte-pair encoding, there"
        )
    return folder


def _check_languages(config, there):
    for key in ("source", "target"):
        if getattr(config, key) not in there:
            raise UserError(f"data.{key} is {getattr(config, key)} but {config.name} has {' and '.join(there)}")


def _fetched(url, name, folder):
    """The file at `url`, downloaded into `folder` as `name`."""
    say(f"downloading {url} to {folder}")
    try:
        return Path(pooch.retrieve(url, None, name, folder, downloader=pooch.HTTPDownloader(progressbar=True)))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        reason = str(error).split("\n")[0]
        raise UserError(f"could not download {url} ({reason}): put {name} at {folder / name}") from None


def _download_multi30k(folder, name):
    packed = _fetched(f"{MULTI30K}/{name}.gz", f"{name}.gz", folder)
    try:
        content = gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"{packed} is damaged ({error}): remove it and start again") from None
    found = hashlib.sha256(content).hexdigest()
    packed.unlink()
    if found != MULTI30K_SHA256[name]:
        raise UserError(f"{name} of {MULTI30K}: sha256 {found}, expected {MULTI30K_SHA256[name]}; try again")
    files.replace_file(folder / name, content)


def _prepare_iwslt14(folder):
    """As fairseq's prepare-iwslt14.sh: tags stripped, pairs cleaned by their Moses words, every 23rd held out.

    What is kept is the text itself: words and lower case are the tokens' business, see tokens.py.
    """
    archive = folder.with_name("de-en.tgz")
    if not archive.exists():
        archive = _fetched(IWSLT14, archive.name, folder.parent)
    say(f"preparing {archive}: some minutes, once")
    members = _members(archive)
    languages = ("de", "en")
    train = [_training_lines(_member(members, f"train.tags.de-en.{language}", archive)) for language in languages]
    kept = clean(*train, languages)
    content = {}
    for side, language in enumerate(languages):
        lines = [pair[side] for pair in kept]
        content[f"train.{language}"] = [line for number, line in enumerate(lines, start=1) if number % HELD_OUT]
        content[f"val.{language}"] = lines[HELD_OUT - 1 :: HELD_OUT]
        names = [f"IWSLT14.{name}.de-en.{language}.xml" for name in IWSLT14_TESTS]
        content[f"test.{language}"] = [line for name in names for line in _segments(_member(members, name, archive))]
    with files.writing(folder):
        if folder.exists():
            raise UserError(f"{folder} is not as it was prepared: remove it to have it prepared again")
        files.write_folder(folder, [(name, ("\n".join(lines) + "\n").encode()) for name, lines in content.items()])


def clean(source, target, languages):
    """[(source, target)] of the pairs with 1 to LONGEST Moses words a side, neither more than RATIO times the other."""
    from .tokens import Moses

    counts = [[len(moses.split(line).split()) for line in lines] for moses, lines in
              zip(map(Moses, languages), (source, target))]  # fmt: skip
    fits = [min(sizes) >= 1 and max(sizes) <= LONGEST and max(sizes) <= RATIO * min(sizes) for sizes in zip(*counts)]
    return [pair for pair, good in zip(zip(source, target), fits) if good]


def _members(archive):
    """{name without folders: text} of a tar archive."""
    try:
        with tarfile.open(archive) as tar:
            return {Path(m.name).name: tar.extractfile(m).read().decode() for m in tar if m.isfile()}
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{archive}: damaged archive ({error}); get it again from {IWSLT14}") from None


def _member(members, name, archive):
    if name not in members:
        raise UserError(f"{archive}: no member {name}; get the archive from {IWSLT14}")
    return members[name]


def _training_lines(text):
    """Lines of speech, titles and descriptions; other tags are lines of their own."""
    lines = [line for line in text.split("\n") if not re.search("<url>|<talkid>|<keywords>", line)]
    lines = [re.sub("</?(?:title|description)>", "", line).strip() for line in lines]
    return lines[:-1] if lines[-1] == "" else lines


def _segments(text):
    found = re.findall(r'<seg id="[0-9]*">(.*)</seg>', text)
    return [line.strip().replace("\u2019", "'") for line in found]
