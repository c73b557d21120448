import json

import pytest

from rdrop_paddle import UserError, load_config
from rdrop_paddle.text.summaries import read_split

DIALOGUE = "#Person1#: Hi,\nTim.\n#Person2#: Hello!"


def config(folder="", name="dialogsum"):
    return load_config(None, ["task=summarisation", f"data.name={name}", f"data.path={folder}"]).data


def write(folder, split, *rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / f"dialogsum.{split}.jsonl").write_text(text)


def test_a_dialogue_is_one_line_with_its_speakers_and_a_test_dialogue_has_three_summaries(tmp_path):
    write(tmp_path, "train", dict(fname="a", dialogue=DIALOGUE, summary=" They greet. ", topic="hi"))
    write(tmp_path, "test", dict(dialogue=DIALOGUE, summary1="one", summary2="two", summary3="three", topic1="hi"))
    pairs, references = read_split(config(tmp_path), "train")
    assert pairs == (["#Person1#: Hi, Tim. #Person2#: Hello!"], ["They greet."]) and references == [("They greet.",)]
    pairs, references = read_split(config(tmp_path), "test")
    assert pairs.target == ["one"] and references == [("one", "two", "three")]


@pytest.mark.parametrize("form", ["{}.source {}.target", "{}.source.gz {}.target.gz"])
def test_a_folder_has_a_text_a_line_and_a_summary_a_line(tmp_path, form):
    import gzip

    source, target = form.format("train", "train").split()
    for path, text in ((tmp_path / source, "x" * 50_000 + "\nb\n\n"), (tmp_path / target, "X\nB\nC\n")):
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    pairs, references = read_split(config(tmp_path, "folder"), "train")
    assert pairs.target == ["X", "B"] and references == [("X",), ("B",)] and len(pairs.source[0]) == 50_000


@pytest.mark.parametrize(
    "rows, message",
    [
        (["{"], "dialogsum.train.jsonl, line 1: no JSON"),
        (["[1]"], "line 1: no object"),
        ([dict(dialogue="a")], "line 1: no column summary; the columns are dialogue"),
        ([dict(dialogue=["a"], summary="b")], "line 1, dialogue: a list or an object"),
        ([dict(dialogue="a\0", summary="b")], "line 1, dialogue: a NUL"),
        (["", ""], "has no dialogues"),
        ([dict(dialogue="", summary="b")], "no pair is left to train on"),
    ],
    ids=range(7),
)
def test_a_hostile_file_of_dialogues_is_an_error_that_names_the_line(tmp_path, rows, message):
    write(tmp_path, "train", *rows)
    with pytest.raises(UserError, match=message):
        read_split(config(tmp_path), "train")


def test_summaries_that_are_empty_are_left_out_of_training_and_an_error_elsewhere(tmp_path, capsys):
    rows = [dict(dialogue="a", summary="b"), dict(dialogue="a", summary=" ")]
    write(tmp_path, "train", *rows), write(tmp_path, "dev", *rows)
    assert read_split(config(tmp_path), "train")[0].target == ["b"]
    assert "1 of 2 pairs left out because a side is empty" in capsys.readouterr().err
    with pytest.raises(UserError, match="dialogsum.dev.jsonl, line 2: a dialogue or a summary is empty"):
        read_split(config(tmp_path), "val")


def test_what_is_not_there_is_said_with_what_to_put_there(tmp_path, monkeypatch):
    monkeypatch.setenv("RDROP_DATA", str(tmp_path))
    with pytest.raises(UserError, match="cnn_dailymail is not there: put train, val and test .source and .target there"):
        read_split(config(name="cnn_dailymail"), "train")
    with pytest.raises(UserError, match="data.path is empty: set data.path=FOLDER"):
        read_split(config(name="folder"), "train")
    with pytest.raises(UserError, match="is no folder: give one with dialogsum.train.jsonl"):
        read_split(config(tmp_path / "absent"), "train")
    with pytest.raises(UserError, match="cannot read .*dialogsum.train.jsonl: No such file"):
        read_split(config(tmp_path), "train")
    (tmp_path / "train.source").write_text("a\nb\n"), (tmp_path / "train.target").write_text("a\n")
    with pytest.raises(UserError, match="line n of one must be the summary of line n of the other"):
        read_split(config(tmp_path, "folder"), "train")
