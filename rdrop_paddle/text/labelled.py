"""Labelled texts: those of GLUE or of tables of one's own, which part is trained on, and what is left out of it, said."""

import hashlib
import json
import math
from pathlib import Path
from typing import List, NamedTuple, Optional, Union

import numpy as np

from ..config import data_root
from ..console import say
from ..errors import UserError
from .glue import DATASETS
from .tables import KINDS, find_table, read_table

CHOICE_SEED = 0  # of the held-out part and the subset: the same examples whatever the training seed
SHOWN, LONGEST_LABEL = 8, 40  # names in a message; characters of one
MANY = 100  # classes of which most have one example: rather ids, or numbers


class Labelled(NamedTuple):
    """Texts of one split, or pairs of them, and what they are labelled with."""

    texts: List[str]
    pairs: Optional[List[str]]  # the second text of each, where there are two
    labels: Union[List[str], List[float]]  # names of classes, or numbers
    classes: Optional[List[str]]  # all that the training data have, also where a split lacks one; None for numbers

    def take(self, chosen):
        texts, pairs, labels = ([column[n] for n in chosen] if column is not None else None for column in self[:3])
        return Labelled(texts, pairs, labels, self.classes)


def read_split(config, split, classes=None):
    """The Labelled of a split by a LabelledDataConfig: "train", "val", "test", or "test_mismatched" of MNLI.

    GLUE's "test" is the official part dev, and its "val" a fixed part of the training data, which "train" leaves out; so
    is that of a folder without a table of that name.

    Args:
        classes: those that the weights know, so that the training data need not be there for "test"; None: the data's.

    Raises:
        UserError: tables that are absent or faulty, labels that training does not know, or fewer examples than the config
            asks; the message names file and line.
    """
    path = locate(config, split)
    say(f"reading {path}")
    table = _without_broken_rows(read_table(path, *_columns(config)), official=config.name != "folder")
    is_train = path.stem == "train"
    if classes is None and not config.labels_are_numbers:
        classes = _classes(config, table if is_train else None)
    rows = _without_empty_texts(table) if is_train else table.rows
    labels = [_label(row, path, classes) for row in rows]
    texts, pairs = [row.values[0] for row in rows], [row.values[1] for row in rows] if config.columns[1] else None
    labelled = Labelled(texts, pairs, labels, None if classes is None else list(classes))
    return labelled.take(_part(labelled, path, config, split)) if is_train else labelled


def locate(config, split):
    """The path of the table that a split is all or, where it is "train", a part of.

    Raises:
        UserError: there is none, or there are several.
    """
    if config.name == "folder":
        if not config.path:
            raise UserError("data.path is empty: set data.path=FOLDER, with train and test .tsv, .csv or .jsonl in it")
        folder = Path(config.path).expanduser()
        found = find_table(folder, split)
        if split == "val":
            found = found or find_table(folder, "valid") or find_table(folder, "train")
        return found or _refuse_absent(folder, split)
    dataset = DATASETS[config.name]
    if split not in ("train", "val", *dataset.tests):
        raise UserError(f"{config.name} has no part {split}: it has train, val and {', '.join(dataset.tests)}")
    folder = Path(config.path).expanduser() if config.path else data_root() / "glue" / dataset.folder
    path = folder / f"{dataset.tests.get(split, 'train')}.tsv"
    if not path.exists():
        raise UserError(f"{path} is not there: get {dataset.folder} from {dataset.address} and put its .tsv files there")
    return path


def fingerprint(labelled):
    """The sha256 of a Labelled."""
    return hashlib.sha256(json.dumps(labelled).encode()).hexdigest()


def _columns(config):
    """(names of columns, names of all columns of a file without a first line of them) as `read_table` takes them."""
    header = DATASETS[config.name].columns if config.name in DATASETS else None
    return [name for name in config.columns if name], header


def _classes(config, train):
    """The names of the classes: GLUE's, or the labels of the training Table, which is read where it is None."""
    if config.name in DATASETS:
        return DATASETS[config.name].classes
    train = train or read_table(locate(config, "train"), *_columns(config))
    return sorted({row.values[-1] for row in train.rows if all(row.values[:-1])})  # others are left out


def _refuse_absent(folder, split):
    names = ", ".join(f"{split}{kind}" for kind in KINDS[:-1])
    there = sorted(path.name for path in folder.iterdir())[:SHOWN] if folder.is_dir() else []
    instead = "; eval.split=val tests on what is held out" if split == "test" else ""
    there = f"there is {', '.join(there) or 'nothing'}{instead}"
    raise UserError(f"data.path {folder} must have {names} or {split}{KINDS[-1]}; {there}")


def _without_broken_rows(table, official):
    """The Table, if it has rows; those of the official files that lack fields are left out, as everybody does."""
    if table.broken and not official:
        more = f" (and {len(table.broken) - 1:,} more such lines)" if len(table.broken) > 1 else ""
        raise UserError(f"{table.path}, {table.broken[0]}{more}")
    if not table.rows:
        raise UserError(f"{table.path} has no rows")
    if table.broken:
        said = f"{len(table.broken):,} of {len(table.broken) + len(table.rows):,} rows left out because they are broken"
        say(f"{table.path}: {said}, the first in {table.broken[0]}")
    return table


def _without_empty_texts(table):
    rows = [row for row in table.rows if all(row.values[:-1])]
    if len(rows) < len(table.rows):
        first = next(row.line for row in table.rows if not all(row.values[:-1]))
        said = f"{len(table.rows) - len(rows):,} of {len(table.rows):,} rows left out because a text is empty"
        say(f"{table.path}: {said}, the first in line {first}")
    if not rows:
        raise UserError(f"{table.path} has no row to train on")
    return rows


def _label(row, path, classes):
    """The label of a row: one of the classes, or where there are none a number."""
    label, place = row.values[-1], f"{path}, line {row.line}"
    if not label:
        raise UserError(f"{place}: the label is empty: give one, or remove the line")
    if classes is None:
        try:
            number = math.nan if "_" in label else float(label)  # 1_000 is a number to Python only
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"{place}: the label is {_short(label)}, where data.target=number wants a finite number, such as 2.5"
            )
        return number
    if any(character in label for character in "\t\r\n"):
        raise UserError(f"{place}: the label has a tab or a line's end in it, which predictions are told apart by: take it out")
    if label not in classes:
        known = ", ".join(map(_short, classes[:SHOWN])) + (", ..." if len(classes) > SHOWN else "")
        raise UserError(f"{place}: the label is {_short(label)}, which training does not know; it knows {known}")
    return label


def _part(labelled, path, config, split):
    """Which examples of the training table are of a split: sorted indices. A table `val` leaves all to "train"."""
    count, holds_out = len(labelled.labels), locate(config, "val") == path
    if len(set(labelled.labels)) == 1:
        raise UserError(f"{path}: every label is {_short(labelled.labels[0])}: there is nothing to learn")
    if not config.labels_are_numbers and (classes := len(set(labelled.labels))) > max(MANY, count / 2):
        asked = f"is {config.columns[2]} the right column (data.label)? Numbers want data.target=number"
        raise UserError(f"{path}: {count:,} examples have {classes:,} labels: {asked}")
    held_out = round(count * config.val_fraction) if holds_out else 0
    if holds_out and held_out in (0, count):
        rest = "none" if held_out == 0 else "all"
        raise UserError(f"{path}: data.val_fraction {config.val_fraction} of {count} examples holds out {rest}: change it")
    order = np.random.default_rng(CHOICE_SEED).permutation(count)
    if split == "val":
        return np.sort(order[:held_out])
    if config.examples is not None and config.examples > count - held_out:
        raise UserError(f"data.examples is {config.examples} but {path} has {count - held_out} to train on")
    return np.sort(order[held_out:][: config.examples])


def _short(label):
    """A label in a message: quoted, and not all of it where a text has been taken for one."""
    return repr(label if isinstance(label, float) or len(label) <= LONGEST_LABEL else f"{label[:LONGEST_LABEL]}...")
