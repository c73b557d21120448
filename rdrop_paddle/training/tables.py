"""Large tables of embeddings: an update's gradient has few rows that are not zero, and on a CPU the ranks exchange these alone.

On a GPU, where exchanging costs little, to find them would be to wait for the device.
Measured in benchmarks/NOTES.md: half of MiniLM's weights are such a table, of which 16 examples touch some 700 of 30,522 rows.
"""

import paddle
from paddle import distributed, nn

from .. import ranks

LARGE = 10_000  # rows from which on a table is worth it


class Tables:
    """The large tables among layers, left out of what DataParallel exchanges, which is made after this."""

    def __init__(self, layers):
        found = dict.fromkeys(layer.weight for layer in layers if isinstance(layer, nn.Embedding))
        on_cpu = paddle.get_device() == "cpu"
        self._weights = [p for p in found if on_cpu and p.shape[0] >= LARGE and not p.stop_gradient]
        for weight in self._weights:
            weight.no_sync = True  # DataParallel's own word for it
            distributed.broadcast(weight, src=0)  # as it does with the others

    @paddle.no_grad()
    def average(self):
        """Average the gradients over the ranks, in place, as DataParallel does with the others."""
        for weight in self._weights:
            average_rows(weight.grad)


def average_rows(gradient):
    """Average a gradient [rows, D] over the ranks, in place; only rows that are not zero on all of them travel."""
    size = paddle.matmul(gradient.abs(), paddle.ones([gradient.shape[1], 1], gradient.dtype)).squeeze(1)
    touched = paddle.nonzero(ranks.sum_over_all(size)).squeeze(1)  # the same on every rank
    rows = ranks.sum_over_all(gradient.index_select(touched)) / ranks.count()
    paddle.scatter_(gradient, touched, rows)
