"""The search held against all possible translations, and against a slow one that keeps every hypothesis as a list."""

import itertools
import math

import numpy as np
import paddle
import pytest

from rdrop_paddle import Transformer
from rdrop_paddle.text.beam_search import _largest, beam_search

PADDING, FIRST, END = 1, 0, 2


class Toy:
    """A model whose logits over `vocabulary` tokens are random, but a function of the source and of all tokens before."""

    padding, max_length = PADDING, 30

    def __init__(self, vocabulary, seed=0):
        self.vocabulary, self.seed, self.rows_in_steps = vocabulary, seed, []

    def logits(self, source, tokens):
        seed = [self.seed, *source, 999, *tokens]
        return np.random.default_rng(seed).normal(0, 2, self.vocabulary).astype("float32")

    def log_probabilities(self, source, tokens):
        logits = self.logits(source, tokens).astype("float64")
        return logits - np.log(np.exp(logits).sum())

    def start(self, source):
        return ToyCache([[token for token in row if token != PADDING] for row in source.numpy().tolist()])

    def step(self, tokens, cache):
        cache.rows = [(source, [*row, *new]) for (source, row), new in zip(cache.rows, tokens.numpy().tolist())]
        self.rows_in_steps.append(len(cache.rows))
        return paddle.to_tensor(np.stack([self.logits(*row) for row in cache.rows])).unsqueeze(1)


class ToyCache:
    def __init__(self, sources):
        self.rows = [(source, []) for source in sources]

    def select(self, rows, sources=None):
        self.rows = [self.rows[row] for row in rows.numpy()]


def search(model, sources, **settings):
    longest = max(map(len, sources))
    padded = paddle.to_tensor([[*source, *[PADDING] * (longest - len(source))] for source in sources])
    return beam_search(model, padded, first=FIRST, end=END, **settings)


def repeats(tokens, size):
    ngrams = list(zip(*(tokens[start:] for start in range(size))))
    return len(set(ngrams)) < len(ngrams)


def all_translations(model, source, *, max_length, min_length, length_penalty, no_repeat_ngram_size=0):
    """[(score, tokens)] of every translation, the best first."""
    found, words = [], [token for token in range(model.vocabulary) if token not in (PADDING, END)]
    for length in range(min_length, max_length + 1):
        for tokens in itertools.product(words, repeat=length):
            if no_repeat_ngram_size and repeats(tokens, no_repeat_ngram_size):
                continue
            steps = [(tokens[:place], token) for place, token in enumerate((*tokens, END))]
            total = sum(model.log_probabilities(source, [FIRST, *before])[token] for before, token in steps)
            found.append((total / (length + 1) ** length_penalty, tokens))
    return sorted(found, reverse=True)


def slow_search(model, source, *, beam_size, max_length, min_length=1, length_penalty=1.0, no_repeat_ngram_size=0):
    """fairseq's rules in plain Python: [(score, tokens)], the best first."""
    beam, ended = [(0.0, ())], []
    for length in range(max_length + 1):
        candidates = []
        for total, tokens in beam:
            log_p = model.log_probabilities(source, [FIRST, *tokens])
            for token in range(model.vocabulary):
                again = no_repeat_ngram_size and token != END and repeats((*tokens, token), no_repeat_ngram_size)
                early = token == END and length < min_length
                late = token != END and length == max_length
                if not (token == PADDING or again or early or late):
                    candidates.append((total + log_p[token], (*tokens, token)))
        candidates = sorted(candidates, reverse=True)[: 2 * beam_size]
        for total, tokens in candidates[:beam_size]:
            if tokens[-1] == END and len(ended) < beam_size:
                ended.append((total / (length + 1) ** length_penalty, tokens[:-1]))
        beam = [candidate for candidate in candidates if candidate[1][-1] != END][:beam_size]
        if len(ended) == beam_size or not beam:
            break
    return sorted(ended, key=lambda hypothesis: -hypothesis[0])


def assert_same(found, expected):
    assert [hypothesis.tokens for hypothesis in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([hypothesis.score for hypothesis in found], [score for score, _ in expected], atol=1e-5)


@pytest.mark.parametrize("min_length, length_penalty", [(0, 1.0), (1, 0.0), (2, 2.0)])
@pytest.mark.parametrize("no_repeat_ngram_size", [0, 1, 2])
def test_a_beam_that_holds_everything_finds_all_translations_in_their_order(min_length, length_penalty, no_repeat_ngram_size):
    rules = dict(min_length=min_length, length_penalty=length_penalty, no_repeat_ngram_size=no_repeat_ngram_size)
    for seed in range(3):
        model = Toy(vocabulary=5, seed=seed)
        (found,) = search(model, [[3, 4]], beam_size=130, max_length_b=4, **rules)
        assert_same(found, all_translations(model, [3, 4], max_length=4, **rules))


@pytest.mark.parametrize(
    "rules", [{}, {"min_length": 3, "length_penalty": 0.6}, {"no_repeat_ngram_size": 2, "length_penalty": 2.0}], ids=str
)
@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_the_search_follows_fairseqs_rules(beam_size, rules):
    sources = [[3, 4, 5], [5], [4, 4], [3, 3, 3, 3]]
    for seed in range(5):
        model = Toy(vocabulary=8, seed=seed)
        for found, source in zip(search(model, sources, beam_size=beam_size, max_length_b=9, **rules), sources):
            assert_same(found, slow_search(model, source, beam_size=beam_size, max_length=9, **rules))


def test_a_beam_of_one_is_greedy():
    model = Toy(vocabulary=9)
    (found,) = search(model, [[3, 4]], beam_size=1, min_length=0, max_length_b=12)
    tokens = []
    while len(tokens) <= 12:
        log_p = model.log_probabilities([3, 4], [FIRST, *tokens])
        log_p[PADDING] = -math.inf
        tokens.append(int(log_p.argmax()))
        if tokens[-1] == END:
            break
    assert len(found) == 1 and (*found[0].tokens, END)[: len(tokens)] == tuple(tokens)


def test_the_maximum_length_is_that_of_the_own_source_and_of_the_models_positions():
    model = Toy(vocabulary=50)  # whose end rarely is among the best
    lengths = [
        max(len(h.tokens) for h in found)
        for found in search(model, [[3] * 2, [3] * 9], beam_size=2, max_length_a=1.5, max_length_b=1)
    ]
    assert lengths == [4, 14]
    model.max_length = 6
    assert max(len(h.tokens) for h in search(model, [[3] * 9], beam_size=2)[0]) == 5


def test_every_hypothesis_keeps_the_minimum_length():
    assert min(len(h.tokens) for h in search(Toy(vocabulary=4), [[3]], beam_size=4, min_length=6)[0]) == 6


def test_a_sentence_whose_maximum_is_below_the_minimum_has_its_maximum():
    long, short = search(Toy(vocabulary=4), [[3] * 9, [3]], beam_size=2, min_length=5, max_length_a=2, max_length_b=0)
    assert min(len(h.tokens) for h in long) >= 5
    assert {len(h.tokens) for h in short} == {2}


def test_rules_that_leave_no_translation_give_none_and_end_the_search():
    model = Toy(vocabulary=4)  # of two words
    assert search(model, [[3], [3, 3]], min_length=5, no_repeat_ngram_size=1) == [[], []]
    assert len(model.rows_in_steps) == 3


def test_sentences_leave_the_batch_as_soon_as_they_are_done():
    model = Toy(vocabulary=7)
    sources = [[3 + n] * (1 + n) for n in range(6)]
    alone = []
    for source in sources:
        model.rows_in_steps = []
        search(model, [source], beam_size=3, max_length_b=9)
        alone.append(len(model.rows_in_steps))
    model.rows_in_steps = []
    search(model, sources, beam_size=3, max_length_b=9)
    assert len(set(alone)) > 2
    assert model.rows_in_steps == [6] + [3 * sum(steps > step for steps in alone) for step in range(1, max(alone))]


def transformer(**settings):
    model = Transformer(
        source_vocabulary=120,
        target_vocabulary=120,
        padding=PADDING,
        encoder_layers=2,
        decoder_layers=2,
        embed_dim=16,
        ffn_dim=24,
        num_heads=2,
        max_length=40,
        tying="none",
        **settings,
    )
    for seed, parameter in enumerate(model.parameters()):
        if len(parameter.shape) == 2:
            parameter.set_value(np.random.default_rng(seed).normal(0, 0.4, parameter.shape).astype("float32"))
    output = model.output.weight.numpy().copy()
    output[END] *= 3  # so that the end often is among the best
    model.output.weight.set_value(output)
    model.eval()
    return model


@pytest.fixture(scope="module")
def sources():
    generator = np.random.default_rng(0)
    return [[*generator.integers(3, 120, length).tolist(), END] for length in (4, 11, 1, 7, 8, 3, 12, 5, 2, 6)]


@pytest.mark.parametrize("norm, positions", [("post", "sinusoidal"), ("pre", "learned")])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_sentence_gets_the_same_alone_and_in_any_batch(sources, beam_size, norm, positions):
    model = transformer(norm=norm, positions=positions)
    rules = dict(beam_size=beam_size, max_length_a=1.0, max_length_b=5, no_repeat_ngram_size=3)
    together = search(model, sources, **rules)
    shorter = [len(found[0].tokens) < len(source) + 5 for found, source in zip(together, sources)]
    assert any(shorter) and not all(shorter)  # than they may be
    halves = [*search(model, sources[::2], **rules), *search(model, sources[1::2], **rules)]
    for found, half, source in zip(together, [halves[n // 2 + 5 * (n % 2)] for n in range(10)], sources):
        for other in (half, search(model, [source], **rules)[0]):
            assert_same(found, [(hypothesis.score, hypothesis.tokens) for hypothesis in other])


def test_scores_are_those_of_the_full_forward(sources):
    model = transformer()
    for found, source in zip(search(model, sources, beam_size=3, max_length_b=10, length_penalty=0.7), sources):
        for hypothesis in found:
            target = [FIRST, *hypothesis.tokens]
            logits = model(paddle.to_tensor([source]), paddle.to_tensor([target])).numpy()[0].astype("float64")
            log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            total = log_p[np.arange(len(target)), [*hypothesis.tokens, END]].sum()
            assert hypothesis.score == pytest.approx(total / len(target) ** 0.7, abs=1e-5)


@pytest.mark.parametrize("width", [40, 500, 6001])
def test_the_largest_are_found_in_their_order(width):
    x = np.random.default_rng(width).normal(size=[7, width]).astype("float32")
    x[3, 5:] = -np.inf
    best, places = _largest(paddle.to_tensor(x), 10)
    expected = -np.sort(-x, axis=1)[:, :10]
    np.testing.assert_array_equal(best.numpy(), expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.take_along_axis(x, places.numpy(), axis=1)[finite], expected[finite])
