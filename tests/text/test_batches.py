from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdrop_paddle import UserError
from rdrop_paddle.text.batches import cut, epoch, padded, training_order, updates_of_epoch

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.asarray)
MAX_TOKENS = st.integers(1, 150)
SEVERAL = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def tokens_of(lengths, part):
    return len(part) * lengths[part].max()


@given(LENGTHS, MAX_TOKENS, st.integers(0, 3))
@SEVERAL
def test_an_epoch_has_every_pair_once_in_bounded_groups_of_neighbouring_lengths(lengths, max_tokens, seed):
    parts = epoch(lengths, max_tokens, seed=seed, number=0)
    assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
    assert all(tokens_of(lengths, part) <= max_tokens or len(part) == 1 for part in parts)
    spans = sorted((lengths[part].min(), lengths[part].max()) for part in parts)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@given(LENGTHS, MAX_TOKENS)
@SEVERAL
def test_no_part_could_take_the_next_pair(lengths, max_tokens):
    parts = cut(lengths, np.argsort(lengths, kind="stable"), max_tokens)
    for part, following in pairwise(parts):
        assert tokens_of(lengths, np.append(part, following[0])) > max_tokens


def test_nothing_is_cut_into_no_parts():
    assert cut(np.asarray([], int), np.asarray([], int), 10) == []


def test_an_epoch_is_a_function_of_seed_and_number():
    lengths = np.random.default_rng(0).integers(1, 30, 200)

    def listed(seed, number):
        return [part.tolist() for part in epoch(lengths, 100, seed=seed, number=number)]

    assert listed(1, 2) == listed(1, 2)
    different = [listed(*key) for key in ((1, 2), (1, 3), (2, 2), (2, 1))]
    assert all(one != other for n, one in enumerate(different) for other in different[:n])
    assert {frozenset(part) for part in different[0]} != {frozenset(part) for part in different[1]}  # other company too
    longest = [lengths[part].max() for part in different[0]]
    assert longest != sorted(longest)
    assert {len(one) for one in different} == {3 * updates_of_epoch(lengths, 100, 3) + len(different[0]) % 3}


def order(lengths, count, *, rank=0, ranks=1, first_update=1, accumulation=3, max_tokens=60, seed=0):
    settings = dict(accumulation=accumulation, seed=seed, rank=rank, ranks=ranks, first_update=first_update)
    return [part.tolist() for part in islice(training_order(lengths, max_tokens, **settings), count)]


@given(st.integers(0, 5), st.integers(1, 4))
@SEVERAL
def test_ranks_together_make_the_same_updates(seed, accumulation):
    lengths = np.random.default_rng(seed).integers(1, 30, 60)
    updates = 2 * updates_of_epoch(lengths, 60, accumulation) + 3
    shared = dict(seed=seed, accumulation=accumulation)
    alone = order(lengths, updates * accumulation, **shared)
    for ranks in range(1, accumulation + 1):
        parts = [
            iter(order(lengths, updates * len(range(rank, accumulation, ranks)), rank=rank, ranks=ranks, **shared))
            for rank in range(ranks)
        ]
        together = [next(parts[place % ranks]) for _ in range(updates) for place in range(accumulation)]
        assert together == alone


def test_updates_come_from_epoch_after_epoch_without_the_incomplete_one():
    lengths = np.random.default_rng(0).integers(1, 30, 53)
    whole = 3 * updates_of_epoch(lengths, 60, 3)
    epochs = [[part.tolist() for part in epoch(lengths, 60, seed=7, number=number)] for number in range(3)]
    assert whole < len(epochs[0])
    assert order(lengths, 3 * whole, seed=7) == [part for parts in epochs for part in parts[:whole]]


def test_resuming_goes_on_as_if_nothing_had_happened():
    lengths = np.random.default_rng(0).integers(1, 30, 50)
    straight = order(lengths, 3 * 20)
    for first_update in (1, 2, 5, updates_of_epoch(lengths, 60, 3), updates_of_epoch(lengths, 60, 3) + 1, 14):
        done = first_update - 1
        assert order(lengths, 3 * (20 - done), first_update=first_update) == straight[3 * done :]


def test_text_that_makes_no_whole_update_is_refused():
    lengths = np.asarray([5, 5, 5])
    assert updates_of_epoch(lengths, 5, 3) == 1
    said = "^train.accumulation is 4 but the training text makes 3 micro-batches of data.max_tokens 5: lower one of the two$"
    for attempt in (lambda: updates_of_epoch(lengths, 5, 4), lambda: order(lengths, 1, accumulation=4, max_tokens=5)):
        with pytest.raises(UserError, match=said):
            attempt()


def test_shorter_sequences_are_filled_up_behind():
    found = padded([[3, 4, 5], [], [6]], 9)
    assert found.dtype == "int64" and found.tolist() == [[3, 4, 5], [9, 9, 9], [6, 9, 9]]
