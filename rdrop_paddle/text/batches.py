"""Micro-batches of sentences: bounded by tokens, grouped by length, in an order that is a function of (seed, epoch)."""

import numpy as np

from ..console import reported
from ..errors import UserError


def cut(lengths, order, max_tokens):
    """Consecutive parts of `order`, sorted by length, of which none has more tokens than `max_tokens`, padding counted.

    Args:
        lengths: int [N], the longer side of each pair, in tokens.
        order: int [N], indices by rising length.

    Returns:
        a list of int arrays; a pair that is longer than max_tokens is alone.
    """
    starts, first = [0], 0
    for position, length in enumerate(lengths[order]):
        if (position - first + 1) * length > max_tokens and position > first:  # rising, so that this is the longest
            starts.append(position)
            first = position
    return np.split(order, starts[1:]) if len(order) else []


def epoch(lengths, max_tokens, *, seed, number):
    """The micro-batches of an epoch: pairs of one length in random order, cut, and the parts shuffled.

    How many there are depends on the lengths alone.
    """
    rng = np.random.default_rng([seed, number])
    shuffled = rng.permutation(len(lengths))
    parts = cut(lengths, shuffled[np.argsort(lengths[shuffled], kind="stable")], max_tokens)
    return [parts[n] for n in rng.permutation(len(parts))]


def order(lengths, split, config, max_tokens, *, first_update, rank, ranks):
    """The micro-batches of one rank by a task's config: of "train" without end, of another split once.

    `max_tokens` bounds those of another split; see `training_order` and `evaluation_order`.
    """
    if split != "train":
        return evaluation_order(lengths, max_tokens, rank=rank, ranks=ranks, split=split)
    settings = dict(accumulation=config.train.accumulation, seed=config.train.seed, first_update=first_update)
    return training_order(lengths, config.data.max_tokens, **settings, rank=rank, ranks=ranks)


def training_order(lengths, max_tokens, *, accumulation, seed, rank, ranks, first_update):
    """Endless micro-batches (int arrays of indices) of one rank, from update `first_update` (1, 2, ...) on.

    An update takes `accumulation` micro-batches of an epoch, by which the ranks take turns; an incomplete last one is dropped.

    Raises:
        UserError: there is none but that.
    """
    updates = updates_of_epoch(lengths, max_tokens, accumulation)
    update = first_update - 1
    while True:
        number, position = divmod(update, updates)
        parts = epoch(lengths, max_tokens, seed=seed, number=number)
        for start in range(position * accumulation, updates * accumulation, accumulation):
            yield from parts[start : start + accumulation][rank::ranks]
            update += 1


def evaluation_order(lengths, max_tokens, *, rank, ranks, split):
    """The micro-batches (int arrays of indices) of one rank, each sample in one of them, the same for any number of ranks.

    The longest come first, so that the ranks end at the same time and the expected time, which is said, is known early.
    """
    parts = cut(lengths, np.argsort(lengths, kind="stable"), max_tokens)
    return reported(parts[::-1][rank::ranks], f"evaluating {split}: batch", -(-len(parts) // ranks))


def updates_of_epoch(lengths, max_tokens, accumulation):
    """How many whole updates an epoch has.

    Raises:
        UserError: none.
    """
    parts = len(cut(lengths, np.argsort(lengths, kind="stable"), max_tokens))
    if parts < accumulation:
        raise UserError(
            f"train.accumulation is {accumulation} but the training text makes {parts} micro-batches of data.max_tokens "
            f"{max_tokens}: lower one of the two"
        )
    return parts // accumulation


def padded(sequences, value):
    """int64 [N, L] of N sequences of integers, filled up with `value`."""
    array = np.full([len(sequences), max(map(len, sequences))], value, "int64")
    for row, sequence in zip(array, sequences):
        row[: len(sequence)] = sequence
    return array
