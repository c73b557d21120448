"""How a language model goes on from a text: a token at a time, the likeliest one or a draw."""

from typing import NamedTuple

import numpy as np
import paddle

from ..console import say


class Continued(NamedTuple):
    """A text and what a model adds to it."""

    prompt: str  # as its tokens say it
    continuation: str


def continue_text(model, tokens, prompts, decode, *, progress=None):
    """A Continued for each of the prompts, which may be empty; what a prompt gets does not depend on the others.

    A prompt goes on to the end of its line, of its text where the tokens are GPT-2's, or for decode.max_length tokens. Of one
    that leaves no positions for so many the beginning is cut off, which is said. The model should be in evaluation mode.

    Args:
        tokens: the model's Tokens.
        decode: a SamplingConfig.
        progress: a function of how many of the prompts are done, called after each.
    """
    room = model.max_length - decode.max_length
    silent = [number for number in tokens.wordless if number != tokens.end]
    encoded, found = tokens.encode(0, prompts), []
    if over := [number for number, ids in enumerate(encoded, start=1) if len(ids) >= room]:
        say(f"{len(over):,} texts cut to their last {room - 1:,} tokens (model.max_length less decode.max_length), the first "
            f"is text {over[0]:,}")  # fmt: skip
    for ids in encoded:
        rng = np.random.default_rng(decode.seed)
        seen = [tokens.end, *ids[len(ids) - min(len(ids), room - 1) :]]
        added = generate(
            model, seen, decode.max_length, lambda logits, rng=rng: choose(logits, decode, rng), end=tokens.end, never=silent
        )
        prompt, whole = (tokens.decode(0, part) for part in (ids, [*ids, *added]))
        found.append(Continued(prompt, whole[len(prompt) :]))
        if progress:
            progress(len(found))
    return found


def generate(model, seen, count, choose, *, end=None, never=()):
    """At most `count` tokens, integers, that follow those `seen`, without the `end` at which they stop.

    Args:
        choose: a function from float64 logits [vocabulary] to a token.
        never: tokens that are not to be chosen.
    """
    cache, added = model.start(), []
    given = seen
    with paddle.no_grad():
        while len(added) < count:
            logits = model.step(paddle.to_tensor([given]), cache)[0, -1].astype("float64").numpy()
            logits[list(never)] = -np.inf
            chosen = choose(logits)
            if chosen == end:
                break
            added.append(chosen)
            given = [chosen]
    return added


def choose(logits, decode, rng):
    """A token by logits [vocabulary] and a SamplingConfig: the likeliest where the temperature is 0, else a draw of `rng`."""
    if decode.temperature == 0:
        return int(np.argmax(logits))
    p = probabilities(logits, decode.temperature, decode.top_k, decode.top_p)
    return int(rng.choice(len(p), p=p))


def probabilities(logits, temperature, top_k=0, top_p=1.0):
    """float64 [vocabulary] that sum to 1: softmax(logits / temperature) of the tokens that may be drawn.

    Those are the `top_k` likeliest, all for 0, and of them the fewest likeliest that together have the probability `top_p`,
    as Holtzman et al. (arXiv 1904.09751) draw from a nucleus; of equals the first come first.
    """
    scaled = (logits - logits.max()) / temperature
    order = np.argsort(-scaled, kind="stable")
    scaled[order[top_k or len(order) :]] = -np.inf
    p = np.exp(scaled)
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]  # the probability of those that are likelier
    p[order[before >= top_p]] = 0.0
    return p / p.sum()
