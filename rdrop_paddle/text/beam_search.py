"""Beam search as fairseq does it, but that how long a translation may get depends on its own source and not on the batch.

A step extends each hypothesis of a sentence by one token. Of the 2 * beam_size best extensions, those by the end token end a
hypothesis if they are among the first beam_size, and the first beam_size of the others go on. A sentence is done when
beam_size hypotheses have ended or the maximum length is reached, and leaves the batch; whether one that still goes on could
come to a better score is not asked.
"""

from typing import NamedTuple, Tuple

import numpy as np
import paddle
from numpy.lib.stride_tricks import sliding_window_view

GROUP = 50  # neighbours among which `_largest` looks for the largest first


class Hypothesis(NamedTuple):
    tokens: Tuple[int, ...]  # without the end
    score: float  # log-probability / length ** length_penalty; the end counts in both


@paddle.no_grad()
def beam_search(
    model,
    source,
    *,
    first,
    end,
    forced=(),
    beam_size=5,
    length_penalty=1.0,
    min_length=1,
    max_length_a=0.0,
    max_length_b=200,
    no_repeat_ngram_size=0,
):
    """Translations of the sentences `source` [N, S], integers: N lists of at most beam_size hypotheses, the best first.

    What a sentence gets is the same alone and in any batch, its scores up to rounding. The model should be in evaluation mode.

    Args:
        model: with `start`, `step`, `padding` and `max_length` as Transformer has them.
        first, end: the tokens that a target begins and ends with; fairseq takes the end for both.
        forced: tokens behind the first that each target begins with; they count in its length and cost nothing.
        beam_size: 1 is greedy search.
        length_penalty: above 1 favours long translations, below 1 short ones.
        min_length: at least so many tokens before the end, or the maximum where that is less.
        max_length_a, max_length_b: at most a * x + b tokens before the end, for a source of x tokens, its end included; and
            never more than the model has positions for.
        no_repeat_ngram_size: no sequence of so many tokens comes twice in a translation, be it left with none; 0 allows any.

    Raises:
        UserError: a source is too long for the model.
    """
    lengths = (source != model.padding).sum(axis=1).numpy()
    limits = np.minimum(max_length_a * lengths + max_length_b, model.max_length - 1).astype(int)
    rules = (end, model.padding, beam_size, length_penalty, min_length, no_repeat_ngram_size)
    hypotheses = _Hypotheses(limits, [first, *forced], *rules)
    cache, unseen = model.start(source), 1 + len(forced)
    while count := len(hypotheses.sentences):
        new = paddle.to_tensor(hypotheses.tokens[:, :, -unseen:].reshape([-1, unseen]))
        unseen = 1
        rows, sources = hypotheses.extend(model.step(new, cache)[:, -1].astype("float32"))
        if len(rows) and not np.array_equal(rows, np.arange(len(new))):
            cache.select(paddle.to_tensor(rows), paddle.to_tensor(sources) if len(sources) < count else None)
    return [sorted(ended, key=lambda hypothesis: -hypothesis.score) for ended in hypotheses.ended]


class _Hypotheses:
    """Those of the sentences that are not done: tokens [N, B, 1 + length] and log-probabilities [N, B]; and those ended."""

    def __init__(self, limits, begun, end, padding, beam_size, length_penalty, min_length, no_repeat_ngram_size):
        self.limits, self.end, self.padding = limits, end, padding
        self.beam_size, self.length_penalty = beam_size, length_penalty
        self.min_length, self.no_repeat_ngram_size = min_length, no_repeat_ngram_size
        self.sentences = np.arange(len(limits))
        self.tokens = np.tile(begun, [len(limits), 1, 1])  # one each at first, beam_size from the first step on
        self.scores = np.zeros([len(limits), 1])
        self.ended = [[] for _ in limits]

    @property
    def length(self):
        return self.tokens.shape[2] - 1

    def extend(self, logits):
        """Go on by one token, given the logits [N * B, V] of the next.

        Returns:
            the rows of the logits that the hypotheses now come from [N' * B'], and the places of their sentences in 0..N-1.
        """
        scores, beams, tokens = self._candidates(logits)  # [N, K] each, the best first
        is_end = tokens == self.end
        self._collect(np.where(is_end, scores, -np.inf)[:, : self.beam_size], beams)
        going_on = np.argsort(is_end, axis=1, kind="stable")[:, : self.beam_size]  # in the order of their scores
        beams, tokens = (np.take_along_axis(t, going_on, axis=1) for t in (beams, tokens))
        scores = np.take_along_axis(np.where(is_end, -np.inf, scores), going_on, axis=1)
        full = np.array([len(self.ended[sentence]) == self.beam_size for sentence in self.sentences])
        left = np.flatnonzero(~full & (self.length < self.limits) & (scores > -np.inf).any(axis=1))
        rows = left[:, None] * self.tokens.shape[1] + beams[left]  # [N', B']
        so_far = self.tokens.reshape([-1, 1 + self.length])[rows]
        self.tokens = np.concatenate([so_far, tokens[left][:, :, None]], axis=2)
        self.scores, self.sentences, self.limits = scores[left], self.sentences[left], self.limits[left]
        return rows.reshape(-1), left

    def _candidates(self, logits):
        """The best extensions of each sentence's hypotheses: scores, which hypothesis and which token, [N, K] each."""
        count, beam, _ = self.tokens.shape
        log_total = _log_sum_exp(logits)  # [N * B, 1], of all tokens, before any is forbidden
        of_end = (logits[:, self.end] - log_total.squeeze(-1)).numpy().reshape([count, beam])
        allowed = paddle.index_put(logits, self._forbidden(), paddle.to_tensor(-np.inf, dtype=logits.dtype))
        best, tokens = _largest(allowed, min(2 * self.beam_size, logits.shape[-1]))
        scores = self.scores[:, :, None] + (best - log_total).numpy().reshape([count, beam, -1])
        tokens = tokens.numpy().reshape(scores.shape)
        last = self.length == self.limits  # nothing but the end is left
        scores[last] = -np.inf
        scores[last, :, 0], tokens[last, :, 0] = (self.scores + of_end)[last], self.end
        order = np.argsort(-scores.reshape([count, -1]), axis=1, kind="stable")[:, : 2 * self.beam_size]
        scores, tokens = (np.take_along_axis(t.reshape([count, -1]), order, axis=1) for t in (scores, tokens))
        return scores, order // best.shape[1], tokens

    def _forbidden(self):
        """The places in the logits [N * B, V] of tokens that may not come next: their rows, their columns."""
        rows = np.arange(self.scores.size)
        places = [(rows, np.full_like(rows, self.padding))]
        if self.length < self.min_length:
            places.append((rows, np.full_like(rows, self.end)))
        if 0 < self.no_repeat_ngram_size <= self.length:
            words = self.tokens[:, :, 1:].reshape([len(rows), -1])
            ngrams = sliding_window_view(words, self.no_repeat_ngram_size, axis=1)  # [N * B, length - n + 1, n]
            begun = words[:, None, words.shape[1] - self.no_repeat_ngram_size + 1 :]  # [N * B, 1, n - 1]
            row, place = np.nonzero((ngrams[:, :, :-1] == begun).all(axis=2))
            places.append((row, ngrams[row, place, -1]))
        return tuple(paddle.to_tensor(np.concatenate(part)) for part in zip(*places))

    def _collect(self, scores, beams):
        """Take over what ends now: candidates [N, K], the best first, with scores above -inf."""
        for place, rank in zip(*np.nonzero(scores > -np.inf)):
            ended = self.ended[self.sentences[place]]
            if len(ended) < self.beam_size:
                tokens = tuple(self.tokens[place, beams[place, rank], 1:].tolist())
                ended.append(Hypothesis(tokens, float(scores[place, rank] / (1 + self.length) ** self.length_penalty)))


def _log_sum_exp(x):
    """[R, V] -> [R, 1]; Paddle's own takes five times as long on a CPU."""
    largest = x.max(axis=1, keepdim=True)
    exponentials = (x - largest.expand(x.shape)).exp()
    return largest + paddle.matmul(exponentials, paddle.ones([x.shape[1], 1], dtype=x.dtype)).log()


def _largest(x, count):
    """The `count` largest of each row [R, V], in order, and where they stand: [R, count] each.

    Found in the groups with the largest maxima, because Paddle's topk of all takes three times as long on a CPU.
    """
    rows, width = x.shape
    groups = -(-width // GROUP)
    if groups <= count:
        return paddle.topk(x, count)
    if width % GROUP:
        x = paddle.concat([x, paddle.full([rows, groups * GROUP - width], -np.inf, dtype=x.dtype)], axis=1)
    best_groups = paddle.topk(x.reshape([rows, groups, GROUP]).max(axis=2), count)[1]  # [R, count]
    members = best_groups + paddle.arange(0, rows * groups, groups).unsqueeze(1)
    values = paddle.gather(x.reshape([-1, GROUP]), members.reshape([-1])).reshape([rows, -1])
    best, place = paddle.topk(values, count)
    return best, paddle.take_along_axis(best_groups, place // GROUP, axis=1) * GROUP + place % GROUP
