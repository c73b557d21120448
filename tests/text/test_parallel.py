import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdrop_paddle import UserError
from rdrop_paddle.text.parallel import LONGEST_LINE, Pairs, choose, fingerprint, read_pairs

LANGUAGES = ("de", "en")
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"), max_size=8)
PAIRS = st.lists(st.tuples(LINES, LINES), min_size=1, max_size=8)


def write(folder, source, target, name="train"):
    """Write bytes as the files of a split; .gz where they are given as such by `gzip.compress`."""
    for language, content in zip(LANGUAGES, (source, target)):
        suffix = ".gz" if content.startswith(b"\x1f\x8b") else ""
        (folder / f"{name}.{language}{suffix}").write_bytes(content)


def read(folder, training=False, names=("train",)):
    return read_pairs(folder, names, LANGUAGES, training=training)


@given(pairs=PAIRS, ends=st.tuples(*[st.sampled_from(["\n", "\r\n"])] * 2), last=st.booleans(), packed=st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_line_n_stays_with_line_n(tmp_path_factory, pairs, ends, last, packed):
    folder = tmp_path_factory.mktemp("pairs")
    for lines, language, end in zip(zip(*pairs), LANGUAGES, ends):
        content = (end.join(lines) + (end if last or not lines[-1] else "")).encode()
        path = folder / f"train.{language}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    stripped = [(source.removeprefix("\ufeff" * (n == 0)).strip(), target.removeprefix("\ufeff" * (n == 0)).strip())
                for n, (source, target) in enumerate(pairs)]  # fmt: skip
    if all(target for _, target in stripped):
        assert list(zip(*read(folder))) == stripped
    else:
        with pytest.raises(UserError, match=r"train.en.*: the translation is empty"):
            read(folder)
    if whole := [pair for pair in stripped if all(pair)]:
        assert list(zip(*read(folder, training=True))) == whole
    else:
        with pytest.raises(UserError, match=r"train.en.*: no pair is left to train on"):
            read(folder, training=True)


def test_lines_end_where_editors_see_them_end(tmp_path):
    write(tmp_path, "a\u2028b\x85c\x0bd\x0ce\x1cf\n".encode() * 2, b"x\r\ny\r\n")
    assert read(tmp_path) == (["a\u2028b\x85c\x0bd\x0ce\x1cf"] * 2, ["x", "y"])


def test_a_mark_of_byte_order_is_no_text(tmp_path):
    write(tmp_path, b"\xef\xbb\xbfa\nb\n", b"x\ny\n")
    assert read(tmp_path).source == ["a", "b"]
    write(tmp_path, b"\xef\xbb\xbfa\n\xff\n", b"x\ny\n")
    with pytest.raises(UserError, match=r"train.de, line 2: not UTF-8"):
        read(tmp_path)


def test_odd_pairs_are_left_out_of_training_by_count_and_stay_elsewhere(tmp_path, capsys):
    long = "a" * 1_000_000
    source, target = ["a", "", "c", long, "e", " \u2028", "g" * LONGEST_LINE], ["1", "2", "", "4", long, "6", "7"]
    write(tmp_path, *("\n".join(lines).encode() for lines in (source, target)))
    assert read(tmp_path, training=True) == (["a", "g" * LONGEST_LINE], ["1", "7"])
    place = f"{tmp_path / 'train.de'} and {tmp_path / 'train.en'}"
    assert capsys.readouterr().err.splitlines() == [
        f"{place}: 3 of 7 pairs left out because a side is empty, the first in line 2",
        f"{place}: 2 of 7 pairs left out because a side has more than 10,000 characters, the first in line 4",
    ]
    with pytest.raises(UserError, match=r"train.en, line 3: the translation is empty, and none could be scored by it"):
        read(tmp_path)
    target[2] = "3"
    write(tmp_path, *("\n".join(lines).encode() for lines in (source, target)))
    assert read(tmp_path) == (["a", "", "c", long, "e", "", "g" * LONGEST_LINE], target)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "source, said",
    [
        (b"a\nb\xff\nc\n", "train.de, line 2: not UTF-8"),
        ("Stra\u00dfe\n".encode("latin1"), "train.de, line 1: not UTF-8"),
        (b"a\nb\nc\0\n", "train.de, line 3: a NUL"),
        ("a\nb\nc\n".encode("utf-16-le"), "train.de, line 1: a NUL, which no text has; is it UTF-16"),
        (b"", "train.de is empty"),
        (b"a\nb\n", "train.de has 2 lines but train.en has 3 lines: line n of one must be the translation of line n"),
        (b"a\nb\n\nc\n", "train.de has 4 lines but train.en has 3 lines"),
        (gzip.compress(b"a\nb\nc\n" * 99)[:-9], "cannot read .*train.de.gz: Compressed file ended"),
        (b"\x1f\x8b" + b"no archive at all", "cannot read .*train.de.gz: "),
        (gzip.compress(b""), "train.de.gz is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("training", [False, True])
def test_files_that_are_no_parallel_text_are_refused(tmp_path, source, said, training):
    write(tmp_path, source, b"x\ny\nz\n")
    with pytest.raises(UserError, match=said) as found:
        read(tmp_path, training)
    assert str(tmp_path) in str(found.value) and "\n" not in str(found.value)


def test_the_first_name_with_both_languages_is_read(tmp_path):
    write(tmp_path, b"a\n", gzip.compress(b"x\n"), name="valid")
    (tmp_path / "val.de").write_bytes(b"another\n")
    assert read(tmp_path, names=("val", "valid")) == (["a"], ["x"])
    write(tmp_path, gzip.compress(b"b\n"), b"y\n", name="valid")  # plain files come before packed ones
    assert read(tmp_path, names=("val", "valid")) == (["a"], ["y"])


def test_a_missing_language_is_named_with_what_is_there(tmp_path):
    (tmp_path / "val.de").write_bytes(b"a\n")
    with pytest.raises(UserError) as found:
        read(tmp_path, names=("val", "valid"))
    assert str(found.value) == f"{tmp_path} must have val.de and val.en, plain or .gz; there is val.de"
    with pytest.raises(UserError, match="there is nothing$"):
        read(tmp_path / "absent")


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    write(tmp_path, b"a\n", b"x\n", name="val")
    for language in LANGUAGES:
        (tmp_path / f"train.{language}").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*train.de: Is a directory"):
        read(tmp_path)


def test_a_choice_keeps_the_order_and_is_the_same_each_time():
    pairs = Pairs([str(n) for n in range(100)], [str(-n) for n in range(100)])
    few = choose(pairs, 30)
    assert few == choose(pairs, 30) and len(few.source) == 30
    numbers = [int(line) for line in few.source]
    assert numbers == sorted(numbers) and [-int(line) for line in few.target] == numbers
    assert np.ptp(numbers) > 60 and numbers != list(range(30))
    assert choose(pairs, None) is pairs and choose(pairs, 100) == pairs
    with pytest.raises(UserError, match=r"data.sentences is 101 but there are 100 pairs to train on"):
        choose(pairs, 101)


def test_a_line_that_moves_to_its_neighbour_changes_the_fingerprint():
    texts = [("a", "", "", "b"), ("a", "b", "", ""), ("", "a", "", "b"), ("a", "b", "c", "d"), ("a", "bc", "", "d")]
    pairs = [Pairs([*text[:2]], [*text[2:]]) for text in texts] + [Pairs(["ab"], [""])]
    assert len({fingerprint(one) for one in pairs}) == len(pairs) and len(fingerprint(pairs[0])) == 64
