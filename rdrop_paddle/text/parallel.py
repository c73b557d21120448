"""Parallel text: reading the files of two languages, and what is left out of them, said."""

import codecs
import gzip
import hashlib
import zlib
from typing import List, NamedTuple

import numpy as np

from ..console import say
from ..errors import UserError

LONGEST_LINE = 10_000  # characters; a longer one is no sentence
CHOICE_SEED = 0  # of a subset: the same pairs whatever the training seed


class Pairs(NamedTuple):
    """Sentences of one split in two languages; line n of one belongs to line n of the other."""

    source: List[str]
    target: List[str]

    def take(self, chosen):
        return Pairs([self.source[n] for n in chosen], [self.target[n] for n in chosen])


def read_pairs(folder, names, languages, *, training, answer="translation", longest=LONGEST_LINE):
    """The Pairs of the files `folder`/`name`.`language`, plain or with .gz behind it, for the first of `names` that has both.

    Args:
        training: leave out pairs with an empty or over-long side, and say how many; otherwise every line counts.
        answer: what a line of the second file is of that of the first, for messages.
        longest: how many characters a line to train on has at most.

    Raises:
        UserError: a file is absent, empty, not UTF-8, holds a NUL, or has another number of lines than the other; or no pair
            is left to train on, or an answer to score by is empty.
    """
    paths = _paths(folder, names, languages)
    pairs = Pairs(*map(read_lines, paths))
    if len(pairs.source) != len(pairs.target):
        counts = " but ".join(f"{path.name} has {len(lines):,} lines" for path, lines in zip(paths, pairs))
        raise UserError(f"{folder}: {counts}: line n of one must be the {answer} of line n of the other")
    if training:
        return without_odd_ones(pairs, " and ".join(map(str, paths)), longest)
    if "" in pairs.target:
        raise UserError(f"{paths[1]}, line {pairs.target.index('') + 1}: the {answer} is empty, and none could be scored by it")
    return pairs


def choose(pairs, count):
    """`count` of the Pairs in their order, or all for None; a seeded choice.

    Raises:
        UserError: there are fewer.
    """
    if count is None:
        return pairs
    if count > len(pairs.source):
        raise UserError(f"data.sentences is {count} but there are {len(pairs.source)} pairs to train on")
    return pairs.take(np.sort(np.random.default_rng(CHOICE_SEED).permutation(len(pairs.source))[:count]))


def fingerprint(pairs):
    """The sha256 of Pairs."""
    digest = hashlib.sha256()
    for lines in pairs:
        digest.update("\n".join(lines).encode() + b"\n\n")
    return digest.hexdigest()


def _paths(folder, names, languages):
    for name in names:
        candidates = [[folder / f"{name}.{language}{suffix}" for suffix in ("", ".gz")] for language in languages]
        found = [next((path for path in both if path.exists()), None) for both in candidates]
        if all(found):
            return found
    there = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
    wanted = " and ".join(f"{names[0]}.{language}" for language in languages)
    raise UserError(f"{folder} must have {wanted}, plain or .gz; there is {', '.join(there) or 'nothing'}")


def read_lines(path):
    """The lines of a text file, plain or .gz, without space around them; see `text_of`.

    Raises:
        UserError: also where it cannot be read.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    return lines_of(content, path)


def lines_of(content, path):
    """The lines of UTF-8 text, without space around them; errors as of `text_of`."""
    return [line.strip() for line in split_lines(text_of(content, path))]


def split_lines(text):
    """Lines without their ends, of Unix or Windows; not str.splitlines(), which splits at characters of text."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def text_of(content, path):
    """UTF-8 text.

    Raises:
        UserError: it is not UTF-8, holds a NUL, or nothing; the message names `path`.
    """
    try:
        text = content.decode().removeprefix("\ufeff")  # the codec utf-8-sig gives wrong places of what it cannot read
    except UnicodeDecodeError as error:
        line, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
        convert = f"convert it, for example with iconv -f {encoding} -t utf-8"
        raise UserError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}); {convert}") from None
    if "\0" in text:
        line = text.partition("\0")[0].count("\n") + 1
        raise UserError(f"{path}, line {line}: a NUL, which no text has; is it UTF-16?")
    if not text:
        raise UserError(f"{path} is empty")
    return text


def without_odd_ones(pairs, source, longest):
    """The Pairs without those that have an empty side, or one of more than `longest` characters; says how many of `source`.

    Raises:
        UserError: none is left.
    """
    empty, long = [], []
    for number, sides in enumerate(zip(*pairs)):
        if not all(sides):
            empty.append(number)
        elif max(map(len, sides)) > longest:
            long.append(number)
    for reason, numbers in (("a side is empty", empty), (f"a side has more than {longest:,} characters", long)):
        if numbers:
            counts = f"{len(numbers):,} of {len(pairs.source):,} pairs left out"
            say(f"{source}: {counts} because {reason}, the first in line {numbers[0] + 1:,}")
    odd = {*empty, *long}
    if len(odd) == len(pairs.source):
        raise UserError(f"{source}: no pair is left to train on")
    return pairs.take([n for n in range(len(pairs.source)) if n not in odd]) if odd else pairs
