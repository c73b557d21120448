"""Texts in, labels out, by tools/predict.py."""

import io
import json
import sys

import numpy as np
import paddle
import pytest
from conftest import LABELS

from rdrop_paddle import UserError
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.text.classify import classify

PAIRS = [("Hund rennt", "Kinder spielen im Gras"), ("", ""), ("zwei Kinder", "ein Hund")]
NUMBERS = ["data.label=score", "data.target=number"]


@pytest.fixture
def predict(understanding, understanding_overrides, main_of, tmp_path, monkeypatch):
    """predict(*arguments, given=bytes, more=overrides) -> status; `predict.task` is the Understanding of the weights."""
    main = main_of("predict.py")
    (tmp_path / "config.yaml").write_text("task: understanding\n")

    def run(*arguments, given=None, more=()):
        task = run.task = understanding(*more)
        checkpoint.save_best(tmp_path, task.model, task.belongings(), update=1)
        monkeypatch.setattr(sys, "stdin", None if given is None else io.TextIOWrapper(io.BytesIO(given)))
        return main(*arguments, "--weights", tmp_path / "best.safetensors", "-c", tmp_path / "config.yaml", "-o",
                    *understanding_overrides, *more)  # fmt: skip

    return run


def lines_of(pairs):
    return "".join(f"{a}\t{b}\n" if a else "\n" for a, b in pairs).encode()


def probabilities(task, pair):
    task.model.eval()
    (ids,), (types,) = task.encode([pair[0]], [pair[1]], "a test")
    logits = task.model(paddle.to_tensor([ids.tolist()]), paddle.to_tensor([types.tolist()])).numpy()[0].astype("float64")
    return np.exp(logits) / np.exp(logits).sum() if len(logits) > 1 else logits


def test_a_line_in_is_a_line_out_with_the_likeliest_class_and_its_probability(predict, capsys):
    assert predict(given=lines_of(PAIRS)) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[1] == "" and lines[3:] == [""]
    for line, pair in zip(lines[:3:2], PAIRS[::2]):
        shares = probabilities(predict.task, pair)
        assert line == f"{LABELS[shares.argmax()]}\t{shares.max():.4f}"


def test_a_table_is_read_by_its_columns_and_json_has_every_class(predict, tmp_path, capsys):
    rows = [{"other": b, "text": a, "note": 1} for a, b in PAIRS]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert predict(tmp_path / "some.jsonl", "--json", "-") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["text"], row["text_pair"]) for row in found] == PAIRS and found[1]["top"] == []
    for row, pair in zip(found[::2], PAIRS[::2]):
        shares = probabilities(predict.task, pair)
        assert [one["class"] for one in row["top"]] == [LABELS[n] for n in np.argsort(-shares)]
        assert [one["probability"] for one in row["top"]] == pytest.approx(sorted(shares, reverse=True), abs=1e-5)


def test_numbers_are_numbers(predict, capsys):
    assert predict(given=lines_of(PAIRS), more=NUMBERS) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == f"{probabilities(predict.task, PAIRS[0]).item():.4f}" and lines[1] == ""
    assert predict("--json", "-", given=lines_of(PAIRS), more=NUMBERS) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[2]["number"] == pytest.approx(probabilities(predict.task, PAIRS[2]).item(), abs=1e-5)


@pytest.mark.parametrize("more", [[], NUMBERS], ids=["classes", "numbers"])
def test_passes_with_dropout_spread_and_meet_the_same_masks_whatever_is_beside(understanding, more):
    task = understanding(*more)
    texts, pairs = map(list, zip(*PAIRS))
    together = classify(task, texts, pairs, passes=9)
    (alone,) = classify(task, texts[2:], pairs[2:], passes=9)
    assert (alone.values == together[2].values).all() and alone.disagreement == together[2].disagreement
    assert together[1] is None and (alone.spread > 1e-4).all() and alone.disagreement > 1e-6
    if more:  # the mean of (a - b)^2 over pairs of passes is twice the variance
        assert alone.disagreement == pytest.approx(2 * alone.spread.item() ** 2)
    plain = classify(task, texts, pairs)
    assert plain[2].spread is None and plain[2].disagreement is None


@pytest.mark.parametrize(
    "arguments, given, message",
    [
        (["--attention", "map.png"], b"a\tb", "--attention is for images and translators"),
        ([], b"Hund\n", "standard input, line 1: 1 texts, and the model takes pairs: give two with a tab between"),
        ([], b"a\tb\na\tb\tc\n", "standard input, line 2: 3 texts"),
        ([], b"", "standard input is empty"),
        ([], None, "standard input is closed: name files of text"),
        (["absent.csv"], None, "cannot read absent.csv"),
        (["ABSENT.CSV"], None, "cannot read ABSENT.CSV"),
        (["--passes", "1"], b"a\tb", "1 pass with dropout has no spread"),
    ],
)
def test_what_cannot_be_labelled_is_one_line_that_says_where(predict, arguments, given, message):
    with pytest.raises(UserError, match=message):
        predict(*arguments, given=given)
