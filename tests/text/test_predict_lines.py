import io
import json
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

from rdrop_paddle import UserError
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.text.attention_map import attention_map
from rdrop_paddle.text.generation import generate
from rdrop_paddle.text.tokens import END

LINES = ["Hund rennt.", "", "zwei Kinder spielen im Gras."]


@pytest.fixture
def predict(translation, translation_overrides, main_of, tmp_path, monkeypatch):
    """predict(*arguments, given=bytes) -> status, with random weights; `predict.task` is the Translation that they are of."""
    paddle.seed(5)
    task = translation()
    for parameter in task.model.parameters():
        parameter.set_value(parameter * 3)  # so that sentences get translations of their own
    checkpoint.save_best(tmp_path, task.model, task.belongings(), update=1)
    (tmp_path / "config.yaml").write_text("task: translation\n")
    main = main_of("predict.py")

    def run(*arguments, given=None):
        if given is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        return main(*arguments, "--weights", tmp_path / "best.safetensors", "-c", tmp_path / "config.yaml", "-o",
                    *translation_overrides)  # fmt: skip

    task.model.eval()
    run.task = task
    return run


def test_a_line_in_is_a_line_out_from_standard_input_and_from_files(predict, tmp_path, capsys):
    expected = [best[0].text if best else "" for best in generate(predict.task.model, predict.task.tokens, LINES,
                                                                   predict.task.config.decode)]  # fmt: skip
    assert predict(given="\r\n".join(LINES).encode()) == 0
    assert capsys.readouterr().out.split("\n") == [*expected, ""]
    for number, line in enumerate(LINES[::2]):
        (tmp_path / f"{number}.txt").write_text(f"{line}\n")
    assert predict(tmp_path / "0.txt", tmp_path / "1.txt") == 0
    assert capsys.readouterr().out.split("\n") == [expected[0], expected[2], ""]
    assert expected[0] != expected[2] and expected[1] == ""


def test_characters_that_the_model_does_not_know_are_said_and_outputs_are_not_inputs(predict, tmp_path, capsys):
    assert predict(given="Hund rennt.\nΩ Hund\n".encode()) == 0
    assert "1 of 2 texts have characters that the model does not know, the first is text 2\n" in capsys.readouterr().err
    for name in ("config.yaml", "best.safetensors"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(UserError, match=f"--json .*{name} is read or written otherwise, and would be lost"):
            predict("--json", tmp_path / name, given=b"Hund\n")
        assert (tmp_path / name).read_bytes() == before


def test_json_has_a_line_for_each_with_the_best_translations_and_their_scores(predict, tmp_path, capsys):
    assert predict("--json", "-", given="\n".join(LINES).encode()) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["source"] for row in rows] == LINES and rows[1]["translations"] == []
    for row in rows[::2]:
        scores = [one["score"] for one in row["translations"]]
        assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert predict("--json", tmp_path / "found.jsonl", given="\n".join(LINES).encode()) == 0
    assert [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()] == rows
    assert capsys.readouterr().out.split("\n")[0] == rows[0]["translations"][0]["text"]


def test_the_attention_is_the_decoders_and_drawn(predict, tmp_path):
    assert predict("--attention", tmp_path / "map.png", given=LINES[2].encode()) == 0
    assert Image.open(tmp_path / "map.png").width > 100
    model, tokens = predict.task.model, predict.task.tokens
    source, target = ([*ids, END] for ids in (tokens.encode(0, LINES[2:])[0], tokens.encode(1, ["two dog"])[0]))
    shares = attention_map(model, source, target)
    assert shares.shape == (len(target), len(source))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    shorter = attention_map(model, source, [*target[:-2], END])  # nothing later is looked at
    np.testing.assert_allclose(shares[: len(shorter) - 1], shorter[:-1], atol=1e-5)
    other = attention_map(model, source, [*target[:-2], target[-2] - 1, END])  # a token's row is of what leads to it
    np.testing.assert_allclose(shares[:-1], other[:-1], atol=1e-5)
    assert not np.allclose(shares[-1], other[-1], atol=1e-5)


def test_the_attention_of_a_line_that_was_cut_is_of_what_the_model_saw(predict, tmp_path, capsys):
    line = " ".join(["Hund"] * 60)  # of more tokens than the small model has positions for
    assert predict("--attention", tmp_path / "map.png", given=line.encode()) == 0
    assert "lines cut to" in capsys.readouterr().err and (tmp_path / "map.png").exists()
    ((one, *_),) = generate(predict.task.model, predict.task.tokens, [line], predict.task.config.decode)
    assert len(one.source) == predict.task.model.max_length and one.tokens[-1] == END


@pytest.mark.parametrize(
    "arguments, given, message",
    [
        (["--top", "3"], b"Hund", "--top and --passes are for classifiers"),
        (["--attention", "map.txt"], b"", "map.txt: a figure's name ends in .png"),
        (["absent.txt"], None, "cannot read absent.txt: No such file"),
        ([], b"Hund\nren\xe4t\n", "standard input, line 2: not UTF-8"),
        ([], b"", "standard input is empty"),
        ([], b"Hund\n\n\0", "standard input, line 3: a NUL"),
    ],
)
def test_what_is_no_text_is_one_line_that_says_where(predict, arguments, given, message):
    with pytest.raises(UserError, match=message):
        predict(*arguments, given=given)
