import types

import numpy as np
import paddle
import pytest

from rdrop_paddle.text.continuation import choose, continue_text, probabilities
from rdrop_paddle.text.language_model import LanguageModel
from rdrop_paddle.text.tokens import END, train_tokens

LINES = ["the cat sat on the mat.", "a dog ran to the cat.", "cats and dogs ran on."]
LOGITS = np.log([0.1, 0.4, 0.05, 0.25, 0.2])


def decode(**settings):
    return types.SimpleNamespace(**{**dict(max_length=8, temperature=1.0, top_k=0, top_p=1.0, seed=0), **settings})


@pytest.fixture(scope="module")
def tokens():
    return train_tokens(["text"], [LINES], vocabulary_size=60, joint=True, lowercase=False)


@pytest.fixture(scope="module")
def model(tokens):
    paddle.seed(3)
    sizes = dict(layers=1, embed_dim=16, ffn_dim=24, num_heads=2, max_length=20)
    model = LanguageModel(vocabulary=tokens.sizes[0], **sizes)
    for parameter in model.parameters():
        parameter.set_value(parameter * 3)
    model.eval()
    return model


@pytest.mark.parametrize(
    "settings, expected",
    [
        ((1.0,), [0.1, 0.4, 0.05, 0.25, 0.2]),
        ((1.0, 2), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ((1.0, 0, 0.6), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),  # 0.4 are too few
        ((1.0, 0, 0.66), [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
        ((1.0, 3, 0.5), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),  # of the three that are left
        ((0.5,), np.array([0.01, 0.16, 0.0025, 0.0625, 0.04]) / 0.275),
        ((1e-3, 0, 1.0), [0, 1, 0, 0, 0]),
        ((1.0, 1), [0, 1, 0, 0, 0]),
        ((1.0, 0, 1e-9), [0, 1, 0, 0, 0]),
    ],
    ids=str,
)
def test_what_may_be_drawn_and_how_often(settings, expected):
    np.testing.assert_allclose(probabilities(LOGITS, *settings), expected, atol=1e-12)


def test_draws_have_these_probabilities_and_no_temperature_takes_the_likeliest():
    rng = np.random.default_rng(0)
    drawn = np.bincount([choose(LOGITS, decode(top_k=3), rng) for _ in range(4000)], minlength=5) / 4000
    np.testing.assert_allclose(drawn, probabilities(LOGITS, 1.0, 3), atol=0.03)
    assert choose(LOGITS, decode(temperature=0.0), None) == 1


def test_a_text_is_continued_in_the_same_way_whatever_is_continued_with_it(model, tokens):
    alone = [continue_text(model, tokens, [line], decode())[0] for line in ("the cat", "a dog")]
    assert continue_text(model, tokens, ["a dog", "the cat", "a dog"], decode()) == [alone[1], alone[0], alone[1]]
    assert alone[0].continuation != alone[1].continuation
    others = {continue_text(model, tokens, ["the cat"], decode(seed=seed))[0].continuation for seed in range(4)}
    assert len(others) > 1
    greedy = [continue_text(model, tokens, ["the cat"], decode(seed=seed, temperature=0.0)) for seed in range(2)]
    assert greedy[0] == greedy[1]


def test_greedy_tokens_are_the_likeliest_of_the_full_forward_and_say_something(model, tokens):
    (ids,) = tokens.encode(0, ["a dog"])
    seen = [END, *ids]
    for _ in range(8):
        logits = model(paddle.to_tensor([seen]))[0, -1].numpy()
        logits[[0, 1, 3]] = -np.inf
        if logits.argmax() == END:
            break
        seen.append(int(logits.argmax()))
    (found,) = continue_text(model, tokens, ["a dog"], decode(temperature=0.0))
    assert found.prompt == "a dog" and found.prompt + found.continuation == tokens.decode(0, seen)
    assert len(seen) > len(ids) + 2


def test_a_long_text_keeps_its_end_which_is_said_and_an_empty_one_begins_a_line(model, tokens, capsys):
    line = " ".join(["the cat"] * 20)
    last = " ".join(["the cat"] * 20)[-5:]
    found = continue_text(model, tokens, [line, ""], decode(temperature=0.0))
    assert (
        "1 texts cut to their last 11 tokens (model.max_length less decode.max_length), the first is text 1"
        in capsys.readouterr().err
    )
    assert found[0].prompt == line and found[0].prompt.endswith(last) and found[1].prompt == ""
    (ids,) = tokens.encode(0, [line])
    shorter = continue_text(model, tokens, [tokens.decode(0, ids[-11:])], decode(temperature=0.0))[0]
    assert tokens.encode(0, [shorter.prompt])[0] == ids[-11:] and shorter.continuation == found[0].continuation
