"""Parallel corpora: where they lie, where they are downloaded from, and how they are prepared."""

import gzip
import hashlib
import re
import shutil
import tarfile
import zlib
from pathlib import Path

import pooch

from ..config import data_root
from ..console import say
from ..durability import files
from ..errors import UserError
from .parallel import choose, read_pairs
from .tokens import Moses

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
IWSLT14_SIZES = {"train": 160_239, "val": 7_283, "test": 6_750}  # pairs, by the official script
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
            files.once(data_root(), (folder / name).exists, lambda name=name: _download_multi30k(folder, name))
    elif config.name == "iwslt14":
        _check_languages(config, ("de", "en"))
        files.once(data_root(), lambda: files.fault(folder) is None, lambda: _prepare_iwslt14(folder))
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


def fetched(url, name, folder, advice=""):
    """The file at `url`, downloaded into `folder` as `name` unless it lies there; `advice` is for those who cannot."""
    if (folder / name).exists():
        return folder / name
    say(f"downloading {url} to {folder}")
    pooch.get_logger().setLevel("WARNING")  # it would advise to write the checksum down
    try:
        return Path(pooch.retrieve(url, None, name, folder, downloader=pooch.HTTPDownloader(progressbar=True)))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        reason = str(error).split("\n")[0]
        raise UserError(f"could not download {url} ({reason}): {advice or f'put {name} at {folder / name}'}") from None


def _download_multi30k(folder, name):
    packed = fetched(f"{MULTI30K}/{name}.gz", f"{name}.gz", folder)
    try:
        content = gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{packed} is damaged ({error}): remove it and start again") from None
    found = hashlib.sha256(content).hexdigest()
    if found != MULTI30K_SHA256[name]:
        hashes = f"sha256 {found}, expected {MULTI30K_SHA256[name]}"
        raise UserError(f"{packed} holds another text ({hashes}): remove it and start again")
    with files.writing(folder / name):
        files.replace_file(folder / name, content)
        packed.unlink()


def _prepare_iwslt14(folder):
    """As fairseq's prepare-iwslt14.sh: tags stripped, pairs cleaned by their Moses words, every 23rd held out.

    What is kept is the text itself: words and lower case are the tokens' business, see tokens.py.
    """
    if folder.exists():
        raise UserError(f"{folder} is not as it was prepared ({files.fault(folder)}): remove it to have it prepared again")
    archive = fetched(IWSLT14, "de-en.tgz", folder.parent)
    say(f"preparing {archive}: some minutes, once")
    languages = ("de", "en")
    train = [f"train.tags.de-en.{language}" for language in languages]
    tests = [[f"IWSLT14.{name}.de-en.{language}.xml" for name in IWSLT14_TESTS] for language in languages]
    texts = _members(archive, [*train, *tests[0], *tests[1]])
    kept = clean(*_aligned([_training_lines(texts[name]) for name in train], archive), languages)
    splits = {
        "train": [pair for number, pair in enumerate(kept, start=1) if number % HELD_OUT],
        "val": kept[HELD_OUT - 1 :: HELD_OUT],
        "test": [*zip(*_aligned([[line for name in names for line in _segments(texts[name])] for names in tests], archive))],
    }
    for split, pairs in splits.items():
        say(f"{split}: {len(pairs):,} pairs, where the official script finds {IWSLT14_SIZES[split]:,}")
    content = {
        f"{split}.{language}": "".join(f"{pair[side]}\n" for pair in pairs).encode()
        for split, pairs in splits.items()
        for side, language in enumerate(languages)
    }
    with files.writing(folder):
        shutil.rmtree(folder.with_name(folder.name + files.UNFINISHED), ignore_errors=True)  # of a process that was killed
        files.write_folder(folder, content.items())


def clean(source, target, languages):
    """[(source, target)] of the pairs with 1 to LONGEST Moses words a side, neither more than RATIO times the other."""
    counts = [[len(moses.split(line).split()) for line in lines] for moses, lines in
              zip(map(Moses, languages), (source, target))]  # fmt: skip
    fits = [min(sizes) >= 1 and max(sizes) <= LONGEST and max(sizes) <= RATIO * min(sizes) for sizes in zip(*counts)]
    return [pair for pair, good in zip(zip(source, target), fits) if good]


def _members(archive, names):
    """{name: text} of the members of a tar archive with these names, in whatever folder."""
    try:
        with tarfile.open(archive) as tar:
            found = {Path(member.name).name: member for member in tar if member.isfile()}
            if missing := [name for name in names if name not in found]:
                raise UserError(f"{archive}: no member {missing[0]}; get the archive from {IWSLT14}")
            return {name: tar.extractfile(found[name]).read().decode() for name in names}
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{archive}: damaged archive ({reason}); get it again from {IWSLT14}") from None


def _aligned(sides, archive):
    if len(sides[0]) != len(sides[1]):
        counts = " and ".join(f"{len(lines):,}" for lines in sides)
        raise UserError(f"{archive}: {counts} lines in its two languages; get it again from {IWSLT14}")
    return sides


def _training_lines(text):
    """Lines of speech, titles and descriptions; other tags are lines of their own."""
    lines = [line for line in text.removesuffix("\n").split("\n") if not re.search("<url>|<talkid>|<keywords>", line)]
    return [re.sub("</?(?:title|description)>", "", line).strip() for line in lines]


def _segments(text):
    found = re.findall('<seg id="[0-9]*">(.*)</seg>', text)
    return [line.strip().replace("\u2019", "'") for line in found]
