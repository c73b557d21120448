"""Texts with their summaries: where they lie, and how they are read. A text is one line, whatever its lines were."""

from pathlib import Path

from ..config import data_root
from ..console import say
from ..errors import UserError
from .parallel import Pairs, read_pairs, without_odd_ones
from .summarisation_config import LANGUAGES
from .tables import read_table

LONGEST_TEXT = 1_000_000  # characters; a longer one is no article
NAMES = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}  # of a split's files
DIALOGUES = {"train": "train", "val": "dev", "test": "test"}  # of DialogSum's
FORMS = ("dialogsum.{}.clean.jsonl", "dialogsum.{}.jsonl")
SUMMARIES = {"train": ["summary"], "val": ["summary"], "test": ["summary1", "summary2", "summary3"]}  # its columns


def read_split(config, split):
    """(Pairs, references) of a split by a SummariesDataConfig: of each source all its summaries, the first that of the pair.

    Raises:
        UserError: files that are absent, damaged or do not belong together, a test summary that is empty, or nothing to
            train on.
    """
    folder = locate(config)
    say(f"reading {folder}, {split}")
    if config.name == "dialogsum":
        return _dialogues(folder, split)
    settings = dict(answer="summary", longest=LONGEST_TEXT)
    pairs = read_pairs(folder, NAMES[split], LANGUAGES, training=split == "train", **settings)
    return pairs, [(summary,) for summary in pairs.target]


def locate(config):
    """The folder with the files of all splits: data.path, or that of the corpus under RDROP_DATA."""
    if config.path:
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"data.path {folder} is no folder: give one with {_wanted(config)}")
        return folder
    if config.name == "folder":
        raise UserError(f"data.path is empty: set data.path=FOLDER, with {_wanted(config)} in it")
    folder = data_root() / config.name
    if not folder.is_dir():
        origin = {
            "cnn_dailymail": "as fairseq's examples/bart/README.summarization.md makes them",
            "dialogsum": "of github.com/cylnlp/dialogsum",
        }[config.name]
        raise UserError(f"{folder} is not there: put {_wanted(config)} there, {origin}")
    return folder


def _wanted(config):
    if config.name == "dialogsum":
        return "dialogsum.train.jsonl, dialogsum.dev.jsonl and dialogsum.test.jsonl"
    return "train, val and test .source and .target"


def _dialogues(folder, split):
    names = [form.format(DIALOGUES[split]) for form in FORMS]
    path = next((folder / name for name in names if (folder / name).exists()), folder / names[-1])
    table = read_table(path, ["dialogue", *SUMMARIES[split]])
    if not table.rows:
        raise UserError(f"{path} has no dialogues")
    rows = [(row.line, [" ".join(text.split()) for text in row.values]) for row in table.rows]
    if split != "train" and (empty := [line for line, texts in rows if not all(texts)]):
        raise UserError(f"{path}, line {empty[0]}: a dialogue or a summary is empty, and none could be scored by it")
    pairs = Pairs(*([texts[side] for _, texts in rows] for side in (0, 1)))
    if split == "train":
        pairs = without_odd_ones(pairs, str(path), LONGEST_TEXT)
        return pairs, [(summary,) for summary in pairs.target]
    return pairs, [tuple(texts[1:]) for _, texts in rows]
