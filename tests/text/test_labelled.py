import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdrop_paddle import UserError
from rdrop_paddle.text.glue import DATASETS
from rdrop_paddle.text.labelled import Labelled, fingerprint, read_split
from rdrop_paddle.text.understanding_config import LabelledDataConfig

ROWS = [(f"text {n}", "yes" if n % 3 else "no") for n in range(20)]
OBJECTS = [
    '{"text": "a", "label": 1}',
    '{"text": "b", "label": 2}',
    r'{"text": "\ud800", "label": 2}',
    '{"label": NaN, "text": 1}',
]
HEADERS = {"tsv": b"text\tlabel\n", "csv": b"text,label\n", "jsonl": b""}
HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.text('ab1.\t,"\n\r{}[]:\\ud0\ufeff', max_size=60).map(str.encode),
    st.lists(st.sampled_from(OBJECTS)).map("\n".join).map(str.encode),
)


def config(path, name="folder", **changes):
    settings = dict(text=None, text_pair=None, label=None, target=None, examples=None, val_fraction=0.2, max_length=128)
    return LabelledDataConfig(name=name, path=str(path), **settings | changes)


def write(folder, name, rows, header=("text", "label")):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [header, *rows] if header else rows
    (folder / f"{name}.tsv").write_text("".join("\t".join(row) + "\n" for row in lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train", ROWS)
    write(tmp_path, "test", [("new", "no"), ("", "yes")])
    return tmp_path


def pairs(labelled):
    return list(zip(labelled.texts, labelled.labels))


def test_the_held_out_part_and_the_rest_are_the_training_table(folder):
    train, val = (read_split(config(folder), split) for split in ("train", "val"))
    assert len(val.texts) == 4 and sorted(pairs(train) + pairs(val)) == sorted(ROWS)
    assert pairs(train) == [row for row in ROWS if row in pairs(train)]  # in their order
    few = read_split(config(folder, examples=5), "train")
    assert len(few.texts) == 5 and {*pairs(few)} < {*pairs(train)}
    assert pairs(read_split(config(folder, examples=5), "val")) == pairs(val)


def test_a_table_val_leaves_all_of_train_to_train_on(folder):
    write(folder, "val", ROWS[:2])
    assert pairs(read_split(config(folder), "train")) == ROWS
    assert pairs(read_split(config(folder), "val")) == ROWS[:2]


def test_a_table_valid_is_a_table_val(folder):
    write(folder, "valid", ROWS[:3])
    assert pairs(read_split(config(folder), "val")) == ROWS[:3]
    assert len(read_split(config(folder), "train").texts) == len(ROWS)


def test_classes_are_those_of_the_training_table_or_of_the_weights(folder):
    write(folder, "test", [("new", "yes")])
    assert read_split(config(folder), "test") == Labelled(["new"], None, ["yes"], ["no", "yes"])
    (folder / "train.tsv").unlink()
    assert read_split(config(folder), "test", classes=["yes", "maybe"]).classes == ["yes", "maybe"]


def test_a_label_beside_an_empty_text_alone_is_no_class(folder):
    write(folder, "train", [*ROWS, ("", ""), ("", "perhaps")])
    assert read_split(config(folder), "train").classes == ["no", "yes"]


def test_empty_texts_are_left_out_of_training_by_count_and_stay_elsewhere(folder, capsys):
    write(folder, "train", [("", "yes"), *ROWS, ("", "no")])
    assert len(read_split(config(folder), "train").texts) == 16
    assert "train.tsv: 2 of 22 rows left out because a text is empty, the first in line 2" in capsys.readouterr().err
    assert read_split(config(folder), "test").texts == ["new", ""]


def test_numbers_and_second_texts_are_columns_by_name(folder):
    write(folder, "train", [("3", "a", "b"), ("-1e-1", "c", "d")], header=("score", "one", "two"))
    columns = dict(text="one", text_pair="two", label="score", target="number", val_fraction=0.5)
    parts = [read_split(config(folder, **columns), split) for split in ("train", "val")]
    found = {(part.texts[0], part.pairs[0], part.labels[0]) for part in parts}
    assert found == {("a", "b", 3.0), ("c", "d", -0.1)} and parts[0].classes is None


@pytest.mark.parametrize("name", DATASETS)
def test_the_official_files_are_read_by_the_names_of_their_columns(tmp_path, monkeypatch, name, capsys):
    monkeypatch.setenv("RDROP_DATA", str(tmp_path))
    dataset, place = DATASETS[name], tmp_path / "glue" / DATASETS[name].folder
    header = dataset.columns or ("index", *filter(None, (dataset.label, dataset.text_pair, dataset.text)))
    known = dataset.classes or ("0.500", "4.25")

    def row(n):
        filled = {dataset.text: f' "text {n}', dataset.text_pair: f"pair {n} ", dataset.label: known[n % len(known)]}
        return [filled.get(column, "-") for column in header]

    write(place, "train", [*map(row, range(10)), ["1", "2"]], header=None if dataset.columns else header)
    for file in dataset.tests.values():
        write(place, file, [row(3)], header=None if dataset.columns else header)
    train = read_split(config("", name), "train")
    assert len(train.texts) == 8 and train.classes == (dataset.classes and list(dataset.classes))
    assert "1 of 11 rows left out because they are broken, the first in line " in capsys.readouterr().err
    label = known[3 % len(known)] if dataset.classes else 4.25
    for split in dataset.tests:
        assert read_split(config("", name), split)[:3] == (['"text 3'], dataset.text_pair and ["pair 3"], [label])
    of_mnli = {"test": "dev_matched", "test_mismatched": "dev_mismatched"}
    assert dataset.tests == (of_mnli if name == "mnli" else {"test": "dev"})


@pytest.mark.parametrize(
    "name, lines",
    [
        ("mrpc", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta b\tc d\n0\t9\t10\te\tf\n"),
        ("cola", "gj04\t1\t\ta b\ncj99\t0\t*\te\n"),  # no line names the columns
    ],
)
def test_the_first_line_of_an_official_file_is_what_it_is(tmp_path, name, lines):
    (tmp_path / "dev.tsv").write_text(lines, encoding="utf-8")
    found = read_split(config(tmp_path, name), "test")
    assert found.texts == ["a b", "e"] and found.labels == ["1", "0"]


@pytest.mark.parametrize(
    "split, said",
    [("train", r"RTE.train.tsv is not there: get RTE from https://dl.fbaipublicfiles.com/glue/data/RTE.zip and put"),
     ("test", r"RTE.dev.tsv is not there"),
     ("test_mismatched", r"rte has no part test_mismatched: it has train, val and test$")],
)  # fmt: skip
def test_where_the_official_files_belong_is_said(tmp_path, monkeypatch, split, said):
    monkeypatch.setenv("RDROP_DATA", str(tmp_path))
    with pytest.raises(UserError, match=said):
        read_split(config("", "rte"), split)


@pytest.mark.parametrize(
    "rows, changes, said",
    [
        (ROWS, dict(path=""), r"data.path is empty: set data.path=FOLDER, with train and test"),
        (ROWS, dict(path="nowhere"), r"nowhere must have train.tsv, train.csv or train.jsonl; there is nothing"),
        ([], {}, r"train.tsv has no rows"),
        ([("", "yes"), ("", "no")], {}, r"train.tsv has no row to train on"),
        ([("a", "yes"), ("b", "yes")], {}, r"every label is 'yes': there is nothing to learn"),
        ([("a", "yes"), ("b", "")], {}, r"train.tsv, line 3: the label is empty"),
        ([("a", "yes"), ("b", "no", "c"), ("d",)], {}, r"train.tsv, line 3: 3 fields, but .* \(and 1 more such lines\)"),
        ([(str(n), f"id{n}") for n in range(300)], {}, r"300 examples have 300 labels: is label the right column"),
        (ROWS[:2], {}, r"data.val_fraction 0.2 of 2 examples holds out none"),
        (ROWS, dict(examples=17), r"data.examples is 17 but .* has 16 to train on"),
        (ROWS, dict(target="number"), r"line 2: the label is 'no', where data.target=number wants a finite number"),
        ([("a", "1"), ("b", "1_0")], dict(target="number"), r"line 3: the label is '1_0'"),
        ([("a", "1"), ("b", "nan")], dict(target="number"), r"line 3: the label is 'nan'"),
        ([("a", "1"), ("b", "1e999")], dict(target="number"), r"line 3: the label is '1e999'"),
        ([("a", "1"), ("b", "3,5")], dict(target="number"), r"line 3: the label is '3,5'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_said_with_its_line(tmp_path, rows, changes, said):
    write(tmp_path, "train", rows)
    with pytest.raises(UserError, match=said):
        read_split(config(**dict(path=tmp_path) | changes), "train")


def test_a_label_that_would_take_several_lines_is_refused(folder):
    (folder / "train.tsv").unlink()
    rows = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no\tor\nnot"}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="train.jsonl, line 2: the label has a tab or a line's end in it"):
        read_split(config(folder), "train")


def test_a_label_that_training_does_not_know_is_named(folder):
    write(folder, "test", [("a", "yes"), ("b", "x" * 99)])
    with pytest.raises(UserError, match=r"test.tsv, line 3: the label is 'x{40}...', .* not know; it knows 'no', 'yes'$"):
        read_split(config(folder), "test")


def test_a_folder_without_a_test_table_says_what_else_can_be_scored(folder):
    (folder / "test.tsv").unlink()
    with pytest.raises(UserError, match=r"must have test.tsv, .*; there is train.tsv; eval.split=val tests on"):
        read_split(config(folder), "test")


@pytest.mark.parametrize(
    "name, changes, said",
    [
        ("folder", dict(text_pair="label"), r"data.text, data.text_pair and data.label are"),
        ("rte", dict(text="question"), r"data.text is question but the columns of rte are known: leave it null"),
        ("stsb", dict(target="class"), r"data.target is class but stsb's is number: leave it null"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(name, changes, said):
    with pytest.raises(UserError, match=said):
        config("somewhere", name, **changes).check()
    config("somewhere", name).check()


def test_the_fingerprint_is_of_all_that_is_learned_from():
    some = [Labelled(["a", "b"], pairs, labels, classes) for pairs, labels, classes in
            [(None, ["x", "y"], ["x", "y"]), (["c", "d"], ["x", "y"], ["x", "y"]), (["c", "d"], ["y", "x"], ["x", "y"]),
             (["c", "d"], ["y", "x"], ["y", "x"]), (None, [1.0, 2.0], None)]]  # fmt: skip
    assert len({*map(fingerprint, some)}) == 5 == len({*map(fingerprint, some + some[:1])})


@given(content=HOSTILE, kind=st.sampled_from([*HEADERS]), headed=st.booleans(), target=st.sampled_from([None, "number"]))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_any_bytes_are_a_table_or_a_users_mistake(tmp_path_factory, content, kind, headed, target):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / f"train.{kind}").write_bytes(HEADERS[kind] * headed + content)
    try:
        found = read_split(config(folder, target=target), "train")
    except UserError as error:
        assert "train" in str(error) and len(str(error)) < 1000
    else:
        assert found.texts and len(found.texts) == len(found.labels) and len(fingerprint(found)) == 64
