"""Tables with named columns: .tsv, in which quotes are letters, .csv, and .jsonl, an object a line."""

import csv
import difflib
import io
import itertools
import json
import re
from pathlib import Path
from typing import List, NamedTuple

from ..errors import UserError
from .parallel import split_lines, text_of

KINDS = (".tsv", ".csv", ".jsonl")
SHOWN, LONGEST_NAME = 8, 40  # names of columns in a message; characters of one
HINTS = {".tsv": "a text in a .tsv has no tab", ".csv": 'a text with a comma in it is written "so, here"'}
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # JSON's escapes can give what no file in UTF-8 holds


class Row(NamedTuple):
    line: int  # of the file in which it begins, from 1
    values: List[str]  # of the columns that were asked for, without space around them


class Table(NamedTuple):
    """The rows of a file that have all columns that were asked for, and what is wrong with the others."""

    path: Path
    rows: List[Row]
    broken: List[str]  # "line 7: ...", a row each


def find_table(folder, name):
    """The path `folder`/`name` with one of KINDS behind it, or None.

    Raises:
        UserError: there are two.
    """
    found = [path for path in (Path(folder) / f"{name}{kind}" for kind in KINDS) if path.exists()]
    if len(found) > 1:
        raise UserError(f"{folder} has {' and '.join(path.name for path in found)}: remove all but one")
    return found[0] if found else None


def read_table(path, columns, header=None):
    """The Table of some columns of the file `path`.

    Args:
        columns: names.
        header: the names of all columns, of a .tsv or .csv whose first line need not give them.

    Raises:
        UserError: the file is of no such kind, absent, empty or not UTF-8, has no such column, or cannot be taken apart.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{path}: a table is a {', '.join(KINDS[:-1])} or {KINDS[-1]} file")
    try:
        text = text_of(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return _objects(path, text, columns) if kind == ".jsonl" else _fields(path, kind, text, columns, header)


def _fields(path, kind, text, columns, header):
    rows = _tsv(text) if kind == ".tsv" else _csv(path, text)
    line, first = next(rows, (1, []))
    first = [name.strip() for name in first]
    if header and not set(columns) <= set(first):
        rows = itertools.chain([(line, first)], rows)
    else:
        header = first
    for name in columns:
        if header.count(name) != 1:
            raise UserError(f"{path}, line 1: {_which_column(name, header)}")
    places = [header.index(name) for name in columns]
    table = Table(path, [], [])
    for line, fields in rows:
        if len(fields) == len(header):
            table.rows.append(Row(line, [fields[place].strip() for place in places]))
        elif "".join(fields).strip():  # an empty line is no row
            counts = f"{len(fields)} fields, but there are {len(header)} columns"
            table.broken.append(f"line {line}: {counts}; {HINTS[kind]}")
    return table


def _tsv(text):
    return ((number, line.split("\t")) for number, line in enumerate(split_lines(text), start=1))


def _csv(path, text):
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # of the process; a text may be long
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True), 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f'{path}, row from line {line} on: {error}; a text with " in it is written "so ""as"" here"') from None


def _which_column(name, header):
    if name in header:
        return f"{header.count(name)} columns are called {name}: rename all but one"
    near = difflib.get_close_matches(name, header, n=1)
    there = ", ".join(column[:LONGEST_NAME] for column in header[:SHOWN]) + (", ..." if len(header) > SHOWN else "")
    return f"no column {name}{f', but {near[0]}' if near else ''}; the columns are {there.strip() or 'not named'}"


def _objects(path, text, columns):
    table = Table(path, [], [])
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line, object_pairs_hook=_once_each, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: no JSON: {getattr(error, 'msg', error)}") from None
        if not isinstance(entry, dict):
            raise UserError(f"{path}, line {number}: no object: give {json.dumps(dict.fromkeys(columns, '...'))}")
        for name in columns:
            if name not in entry:
                raise UserError(f"{path}, line {number}: {_which_column(name, list(entry))}")
        table.rows.append(Row(number, [_as_text(entry[name], f"{path}, line {number}, {name}") for name in columns]))
    return table


def _refuse(constant):
    raise ValueError(f"{constant} is a missing value: give a text or a number, or remove the line")


def _once_each(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name given twice: {', '.join(name for name, _ in pairs)}"[:200])
    return found


def _as_text(value, place):
    if isinstance(value, (list, dict)):
        raise UserError(f"{place}: a list or an object, where a text or a number is wanted")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 is 1
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    if NO_TEXT.search(text):
        raise UserError(f"{place}: a NUL or half of a surrogate pair, which no text has")
    return text.strip()
