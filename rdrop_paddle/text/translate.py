"""Lines in, translations out: how every line of a text gets its own, whatever else is translated with it."""

from typing import NamedTuple

import numpy as np
import paddle

from ..console import say
from .batches import cut, padded
from .beam_search import beam_search
from .tokens import END, PADDING


class Translated(NamedTuple):
    """One of the translations of a line."""

    text: str
    score: float  # log-probability / length ** decode.length_penalty


def translate(model, tokens, lines, decode, *, progress=None):
    """The translations of each of `lines`: lists of at most decode.beam Translated, the best first, in the lines' order.

    An empty line has none. What the model has no positions for is cut off at the line's end, which is said with its count.
    The model should be in evaluation mode.

    Args:
        tokens: the model's Tokens.
        decode: a DecodeConfig; sentences of about one length are translated together, at most decode.max_tokens tokens of
            theirs at once, padding counted.
        progress: a function of how many of the lines are done, called after each part of them.

    Raises:
        UserError: no length is left between decode's minimum and maximum.
    """
    sources = tokens.encode(0, lines)
    _say_cut([len(source) for source in sources], model.max_length - 1)
    sources = [[*source[: model.max_length - 1], END] for source in sources]
    lengths = np.asarray(list(map(len, sources)), int)
    order = np.argsort(lengths, kind="stable")
    found = [[] for _ in lines]
    done = int((lengths == 1).sum())  # the empty ones
    for part in cut(lengths, order[done:], decode.max_tokens):
        source = paddle.to_tensor(padded([sources[number] for number in part], PADDING))
        for number, hypotheses in zip(part, search(model, source, decode)):
            found[number] = [Translated(tokens.decode(1, one.tokens), one.score) for one in hypotheses]
        done += len(part)
        if progress:
            progress(done)
    return found


def search(model, source, decode):
    """Lists of Hypothesis, the best first, of sentences [N, S] that end in END, by a DecodeConfig."""
    return beam_search(
        model,
        source,
        first=END,
        end=END,
        beam_size=decode.beam,
        length_penalty=decode.length_penalty,
        min_length=decode.min_length,
        max_length_a=decode.max_length_a,
        max_length_b=decode.max_length_b,
        no_repeat_ngram_size=decode.no_repeat_ngram,
    )


def _say_cut(lengths, longest):
    over = [number for number, length in enumerate(lengths, start=1) if length > longest]
    if over:
        say(
            f"{len(over):,} lines cut to the {longest:,} tokens that the model has positions for (model.max_length), the first "
            f"in line {over[0]:,}"
        )
