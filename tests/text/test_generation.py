import numpy as np
import paddle
import pytest

from rdrop_paddle import Transformer
from rdrop_paddle.text.beam_search import beam_search
from rdrop_paddle.text.generation import generate, search
from rdrop_paddle.text.sequence_to_sequence_config import DecodeConfig
from rdrop_paddle.text.tokens import END, PADDING, train_tokens

WORDS = ["ein", "kleiner", "Hund", "rennt", "durch", "das", "hohe", "Gras", "und", "bellt", "einen", "roten", "Ball", "an"]
ENGLISH = ["a", "small", "dog", "runs", "through", "the", "high", "grass", "and", "barks", "at", "a", "red", "ball"]
DECODE = DecodeConfig(
    beam=3, length_penalty=0.7, min_length=2, max_length_a=1.0, max_length_b=4, no_repeat_ngram=2, max_tokens=36
)


@pytest.fixture(scope="module")
def tokens():
    return train_tokens(("de", "en"), [WORDS, ENGLISH], vocabulary_size=90, joint=False, lowercase=False)


@pytest.fixture(scope="module")
def model(tokens):
    paddle.seed(0)
    sizes = dict(encoder_layers=1, decoder_layers=1, embed_dim=16, ffn_dim=16, num_heads=2, norm="pre", max_length=20)
    source, target = tokens.sizes
    model = Transformer(source_vocabulary=source, target_vocabulary=target, padding=PADDING, tying="none", **sizes)
    model.eval()
    return model


@pytest.fixture(scope="module")
def lines():
    """20 sentences of 0 to 7 words."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, number % 8)) for number in range(20)]


def assert_same(found, expected):
    assert [[one.text for one in row] for row in found] == [[one.text for one in row] for row in expected]
    scores = [[one.score for row in rows for one in row] for rows in (found, expected)]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_a_lines_translations_depend_on_no_other_line(model, tokens, lines):
    found = generate(model, tokens, lines, DECODE)
    assert [len(row) for row in found] == [DECODE.beam if line else 0 for line in lines]
    assert len({row[0].text for row in found if row}) > 10  # they differ, so that a wrong order would show
    assert_same(found, [generate(model, tokens, [line], DECODE)[0] for line in lines])
    assert_same(found[::-1], generate(model, tokens, lines[::-1], DECODE))


def test_translations_are_those_of_the_search_and_decoded(model, tokens, lines):
    (source,) = tokens.encode(0, lines[7:8])
    (hypotheses,) = search(model, paddle.to_tensor([[*source, END]]), DECODE)
    found = generate(model, tokens, lines, DECODE)[7]
    assert [one.text for one in found] == [tokens.decode(1, one.tokens) for one in hypotheses]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in hypotheses], atol=1e-5)
    assert [one.tokens for one in found] == [[*one.tokens, END] for one in hypotheses]
    assert {tuple(one.source) for one in found} == {(*source, END)}
    assert set(found[0].text) <= set(" ".join(ENGLISH))


def test_what_is_translated_at_once_is_bounded(model, tokens, lines, monkeypatch):
    sizes, done = [], []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda source: sizes.append(source.shape) or encode(source))
    generate(model, tokens, lines, DECODE, progress=done.append)
    assert max(rows * length for rows, length in sizes) <= DECODE.max_tokens
    assert sum(rows for rows, _ in sizes) == sum(map(bool, lines)) and len(sizes) == 3
    assert done == list(3 + np.cumsum([rows for rows, _ in sizes]))  # 3 are empty


def test_a_line_that_is_too_long_is_cut_and_said(model, tokens, capsys):
    longest = model.max_length - 1  # and its end
    fits = " ".join(WORDS) + " ein" * (longest - len(WORDS))
    assert len(tokens.encode(0, [fits])[0]) == longest
    long = fits + " Hund bellt"
    found = generate(model, tokens, ["", long, fits, long], DECODE)
    assert "2 lines cut to the 19 tokens that the model has positions for (model.max_length), the first in line 2" in (
        capsys.readouterr().err
    )
    assert_same(found, [[], found[2], found[2], found[2]])
    generate(model, tokens, [fits], DECODE)
    assert not capsys.readouterr().err


def test_lines_without_words_have_no_translation(model, tokens):
    assert generate(model, tokens, [], DECODE) == []
    assert generate(model, tokens, ["", " \t", "\u2028\u00a0"], DECODE) == [[], [], []]


def test_a_hostile_line_harms_no_other(model, tokens, lines):
    hostile = ["<pad> <pad>", "</s>", "\x00", "\u202e\u0300", "▁", "a" * 5000, "日本"]
    found = generate(model, tokens, [*hostile, lines[5]], DECODE)
    assert_same(found[-1:], generate(model, tokens, lines[5:6], DECODE))
    ids = tokens.encode(0, hostile)
    assert not {PADDING, END} & {number for sentence in ids for number in sentence}


def test_search_takes_the_end_as_the_first_token(model):
    source = paddle.to_tensor([[7, 8, END], [9, END, PADDING]])
    rules = dict(beam_size=3, length_penalty=0.7, min_length=2, max_length_a=1.0, max_length_b=4, no_repeat_ngram_size=2)
    assert search(model, source, DECODE) == beam_search(model, source, first=END, end=END, **rules)
