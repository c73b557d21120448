"""Lines in, answers out, such as translations: how every line gets its own, whatever else is answered with it."""

from typing import List, NamedTuple

import numpy as np
import paddle

from ..console import say
from .batches import cut, padded
from .beam_search import beam_search
from .tokens import END


class Generated(NamedTuple):
    """One of the answers to a line."""

    text: str
    score: float  # log-probability / length ** decode.length_penalty
    source: List[int]  # the tokens of the line as the model was given them
    tokens: List[int]  # and those of the answer, with the end


def generate(model, tokens, lines, decode, *, progress=None):
    """The answers to each of `lines`: lists of at most decode.beam Generated, the best first, in the lines' order.

    An empty line has none. What the model has no positions for is cut off at the line's end, which is said with its count.
    The model should be in evaluation mode.

    Args:
        tokens: the model's Tokens.
        decode: a DecodeConfig; lines of about one length are answered together, at most decode.max_tokens tokens of theirs
            at once, padding counted.
        progress: a function of how many of the lines are done, called after each part of them.
    """
    begin, end, sources = tokens.begin, tokens.end, tokens.encode(0, lines)
    room = model.max_length - len(begin) - 1
    _say_cut([len(source) for source in sources], room)
    done = sum(not source for source in sources)  # the empty ones
    sources = [[*begin, *source[:room], end] for source in sources]
    lengths = np.asarray(list(map(len, sources)), int)
    order = np.argsort(lengths, kind="stable")
    found = [[] for _ in lines]
    for part in cut(lengths, order[done:], decode.max_tokens):
        source = paddle.to_tensor(padded([sources[number] for number in part], tokens.padding))
        for number, hypotheses in zip(part, search(model, source, decode, end=end, begin=begin)):
            found[number] = [
                Generated(tokens.decode_line(1, one.tokens), one.score, sources[number], [*one.tokens, end])
                for one in hypotheses
            ]
        done += len(part)
        if progress:
            progress(done)
    return found


def search(model, source, decode, *, end=END, begin=()):
    """Lists of Hypothesis, the best first, of sources [N, S] by a DecodeConfig; texts begin with `begin` and end with `end`."""
    return beam_search(
        model,
        source,
        first=end,  # as fairseq and BART do, a target begins with the end of the one before
        end=end,
        forced=begin,
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
