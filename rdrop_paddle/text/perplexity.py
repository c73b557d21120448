"""The score of language models, and what translators and summarisers have beside theirs."""

import math


def perplexity(loss, count):
    """e to the power of the mean of a `loss` that was summed over `count`, in nats; infinite where no float holds it."""
    try:
        return math.exp(loss / count)
    except OverflowError:
        return math.inf
