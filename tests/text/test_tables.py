import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdrop_paddle import UserError
from rdrop_paddle.text.tables import find_table, read_table

COLUMNS = ["text", "label"]
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\t"), max_size=8)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(path, columns=COLUMNS):
    return [row.values for row in read_table(path, columns).rows]


def written(rows):
    """A .csv with every row, as Python's csv module writes it."""
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return file.getvalue()


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), lines=st.lists(st.tuples(LINES, LINES), max_size=5))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_what_was_written_is_read(tmp_path_factory, rows, lines):
    folder = tmp_path_factory.mktemp("tables")
    stripped = [[text.strip(), label.strip()] for text, label in rows]
    assert values(write(folder, "a.csv", written([("label", "other", "text")] + [(b, "-", a) for a, b in rows]))) == stripped
    objects = "".join(json.dumps({"label": label, "text": text, "other": [1]}) + "\n" for text, label in rows)
    assert values(write(folder, "a.jsonl", objects)) == stripped
    tsv = "".join(f"{label}\t-\t{text}\n" for text, label in [("text", "label"), *lines])
    assert values(write(folder, "a.tsv", tsv)) == [[text.strip(), label.strip()] for text, label in lines]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name, lines", [("a.tsv", ["text\tlabel", '"a\tb"']), ("a.csv", ["text,label", '"""a","b"""'])])
def test_ends_of_line_and_a_mark_of_byte_order_are_no_text(tmp_path, end, mark, name, lines):
    assert values(write(tmp_path, name, mark + end.join([*lines, "", ""]))) == [['"a', 'b"']]


def test_a_row_is_named_by_the_line_in_which_it_begins(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"two\r\nlines",x\none,y\n')
    assert [(row.line, row.values) for row in read_table(path, COLUMNS).rows] == [(2, ["two\r\nlines", "x"]), (4, ["one", "y"])]


def test_numbers_and_words_of_json_are_labels(tmp_path):
    entries = [{"text": "a", "label": label} for label in (1, 1.0, 2.5, True, None, " x ")]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, entries)))
    assert [label for _, label in values(path)] == ["1", "1", "2.5", "true", "", "x"]


def test_a_space_behind_a_comma_is_no_text(tmp_path):
    assert values(write(tmp_path, "a.csv", 'text, label\n"so, here", "yes"\n')) == [["so, here", "yes"]]


def test_rows_with_other_fields_are_told_apart_from_whole_ones(tmp_path):
    table = read_table(write(tmp_path, "a.tsv", "text\tlabel\na\n\n \nb\tx\tz\nc\tx\n"), COLUMNS)
    assert [row.line for row in table.rows] == [6]
    hint = "but there are 2 columns; a text in a .tsv has no tab"
    assert table.broken == [f"line 2: 1 fields, {hint}", f"line 5: 3 fields, {hint}"]


def test_one_table_of_a_name_is_found(tmp_path):
    assert find_table(tmp_path, "train") is None
    path = write(tmp_path, "train.jsonl", "")
    assert find_table(tmp_path, "train") == path
    write(tmp_path, "train.tsv", "")
    with pytest.raises(UserError, match=r"has train.tsv and train.jsonl: remove all but one"):
        find_table(tmp_path, "train")


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.txt", "", r"a.txt: a table is a .tsv, .csv or .jsonl file"),
        ("a.tsv", "", r"a.tsv is empty"),
        ("a.tsv", b"text\tlabel\na\tb\nStra\xdfe\tx\n", r"a.tsv, line 3: not UTF-8 \(byte 0xdf\); .*iconv -f latin1"),
        ("a.csv", "text,label\n".encode("utf-16"), r"a.csv, line 1: not UTF-8 \(byte 0xff\); .*iconv -f utf-16"),
        ("a.tsv", "text\tlabel\na\0\tb", r"a.tsv, line 2: a NUL"),
        ("a.tsv", "texts\tlabel\n", r"line 1: no column text, but texts; the columns are texts, label"),
        ("a.csv", "text;label\na;b\n", r"line 1: no column text; the columns are text;label"),
        ("a.tsv", "\n\n", r"line 1: no column text; the columns are not named"),
        ("a.tsv", "text\ttext\tlabel\n", r"line 1: 2 columns are called text: rename all but one"),
        ("a.tsv", "\t".join("abcdefghij") + "\n", r"the columns are a, b, c, d, e, f, g, h, \.\.\.$"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', r"a.csv, row from line 3 on: unexpected end of data; a text with \""),
        ("a.csv", 'text,label\n"a"b,c\n', r"a.csv, row from line 2 on: ',' expected after '\"'"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}\n', r"line 2: no column label; the columns are text"),
        ("a.jsonl", '\n{"text": \n', r"a.jsonl, line 2: no JSON: Expecting value"),
        ("a.jsonl", '{"text": "a", "text": "b", "label": "c"}', r"a.jsonl, line 1: no JSON: a name given twice: text, text"),
        ("a.jsonl", '{"text": "a", "label": NaN}', r"a.jsonl, line 1: no JSON: NaN is a missing value"),
        ("a.jsonl", "[" * 100_000, r"a.jsonl, line 1: no JSON: "),
        ("a.jsonl", '{"label": 1' + "0" * 5000 + "}", r"a.jsonl, line 1: no JSON: "),
        ("a.jsonl", '["a", "b"]\n', r'line 1: no object: give {"text": "...", "label": "..."}'),
        ("a.jsonl", '{"text": ["a"], "label": "b"}', r"a.jsonl, line 1, text: a list or an object"),
        ("a.jsonl", r'{"text": "\ud800", "label": "b"}', r"a.jsonl, line 1, text: a NUL or half of a surrogate pair"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said_with_its_line(tmp_path, name, content, said):
    with pytest.raises(UserError, match=said):
        read_table(write(tmp_path, name, content), COLUMNS)


@pytest.mark.parametrize("name", ["a.CSV", "a.csv"])
def test_a_text_may_be_long_and_a_suffix_be_written_large(tmp_path, name):
    (row,) = read_table(write(tmp_path, name, f"text,label\n{'a' * 200_000},b\n"), COLUMNS).rows
    assert row.values == ["a" * 200_000, "b"]


def test_names_of_columns_are_the_first_lines_or_those_given(tmp_path):
    for first in ("label\ttext\n", ""):
        table = read_table(write(tmp_path, "a.tsv", f"{first}yes\ta b\n"), COLUMNS, header=["label", "text"])
        assert [row.values for row in table.rows] == [["a b", "yes"]]


def test_an_absent_file_and_a_folder_are_no_tables(tmp_path):
    for path in (tmp_path / "a.tsv", tmp_path / "b.tsv"):
        with pytest.raises(UserError, match=r"cannot read .*\.tsv: "):
            read_table(path, COLUMNS)
        (tmp_path / "b.tsv").mkdir(exist_ok=True)
