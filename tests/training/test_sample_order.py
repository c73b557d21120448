import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdrop_paddle import UserError
from rdrop_paddle.training.sample_order import evaluation_order, training_order


def first(count, order):
    return list(itertools.islice(order, count))


def key_sets(**overrides):
    """Each update's keys over all ranks, for the first five updates of 50 samples."""
    settings = dict(batch_size=16, micro_batch_size=4, ranks=1, first_update=1) | overrides
    per_rank = settings["batch_size"] // settings["ranks"] // settings["micro_batch_size"]
    updates = []
    orders = [training_order(50, 7, rank=rank, **settings) for rank in range(settings["ranks"])]
    for _ in range(5):
        batches = [batch for order in orders for batch in first(per_rank, order)]
        updates.append(sorted((epoch, index) for epoch, indices in batches for index in indices.tolist()))
    return updates


@pytest.mark.parametrize("layout", [dict(ranks=2), dict(ranks=4), dict(micro_batch_size=16), dict(ranks=2, micro_batch_size=8)])
def test_a_global_batch_holds_the_same_samples_whatever_the_layout(layout):
    assert key_sets(**layout) == key_sets()


def test_an_epoch_has_each_sample_at_most_once_and_drops_the_rest():
    updates = key_sets()
    for epoch, batches in [(0, updates[:3]), (1, updates[3:])]:
        keys = [key for batch in batches for key in batch]
        assert len(set(keys)) == len(keys) and {e for e, _ in keys} == {epoch}
    assert updates[0] != [(0, index) for _, index in updates[3]]  # the next epoch has an order of its own


@pytest.mark.parametrize("first_update", [2, 3, 4, 5])
def test_starting_later_gives_the_rest_of_the_same_order(first_update):
    settings = dict(batch_size=16, micro_batch_size=8, rank=1, ranks=2)
    whole = first(10, training_order(50, 7, first_update=1, **settings))
    later = first(4, training_order(50, 7, first_update=first_update, **settings))
    for (epoch, indices), (expected_epoch, expected) in zip(later, whole[first_update - 1 : first_update + 3]):
        assert epoch == expected_epoch and indices.tolist() == expected.tolist()


def test_a_batch_larger_than_the_training_set_is_an_error():
    with pytest.raises(UserError, match=r"train.batch_size 64 is more than the 50 training samples"):
        training_order(50, 0, batch_size=64, micro_batch_size=64, rank=0, ranks=1, first_update=1)


@given(st.integers(0, 200), st.integers(1, 64), st.integers(1, 7))
def test_ranks_count_each_test_sample_once_in_the_same_batches(count, batch_size, ranks):
    def batches(rank, ranks):
        order = evaluation_order(count, batch_size=batch_size, rank=rank, ranks=ranks)
        return [indices.tolist() for _, indices in order]

    together = sorted(batch for rank in range(ranks) for batch in batches(rank, ranks))
    assert together == batches(0, 1) and [index for batch in together for index in batch] == list(range(count))


@pytest.mark.parametrize("layout", [dict(ranks=2), dict(ranks=4), dict(micro_batch_size=16), dict(ranks=2, micro_batch_size=8)])
def test_lengths_leave_a_global_batch_its_samples_and_group_its_micro_batches(layout):
    lengths = np.random.default_rng(0).integers(1, 90, 50)
    assert key_sets(lengths=lengths, **layout) == key_sets()
    settings = dict(batch_size=16, micro_batch_size=4, rank=0, ranks=1, first_update=1, lengths=lengths)
    for _ in range(3):
        of_update = [lengths[indices] for _, indices in first(4, training_order(50, 7, **settings))]
        assert (np.diff(np.concatenate(of_update)) >= 0).all()
        settings["first_update"] += 1
