"""The order in which the ranks take samples; every choice is a function of (seed, epoch), whatever the number of ranks."""

import numpy as np

from ..errors import UserError


def epoch_order(count, seed, epoch):
    """The permutation of 0..count-1 in which an epoch takes its samples."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def training_order(count, seed, *, batch_size, micro_batch_size, rank, ranks, first_update, lengths=None):
    """Endless micro-batches (epoch, indices int64 [micro_batch_size]) for one rank, from update `first_update` (1, 2, ...) on.

    Each epoch is one permutation, drawn from (seed, epoch) and cut into global batches, an incomplete last one dropped;
    a global batch holds the same samples whatever the number of ranks and the micro-batch size.

    Args:
        lengths: int [count], of the samples: a global batch is cut into micro-batches of about one length, which saves
            padding and changes nothing of its gradient; with two a rank or more, all ranks have about the same to do. Or None.
    """
    updates = count // batch_size
    if updates == 0:
        raise UserError(f"train.batch_size {batch_size} is more than the {count} training samples: lower it")

    def micro_batches():
        update = first_update - 1
        while True:
            epoch, position = divmod(update, updates)
            order = epoch_order(count, seed, epoch)
            for start in range(position * batch_size, updates * batch_size, batch_size):
                batch = order[start : start + batch_size]
                if lengths is not None:
                    batch = batch[np.argsort(lengths[batch], kind="stable")]
                rounds = batch.reshape(-1, ranks, micro_batch_size)
                if lengths is not None:
                    rounds[1::2] = rounds[1::2, ::-1].copy()  # who had the longest of one round has the shortest of the next
                for chunk in rounds[:, rank]:
                    yield epoch, chunk
                update += 1

    return micro_batches()


def evaluation_order(count, *, batch_size, rank, ranks):
    """This rank's batches (epoch 0, indices int64 [N]), in which all ranks together hold each sample exactly once.

    The batches themselves do not depend on the number of ranks, so neither does the result of any sample.
    """
    starts = range(rank * batch_size, count, ranks * batch_size)
    return [(0, np.arange(start, min(start + batch_size, count))) for start in starts]
