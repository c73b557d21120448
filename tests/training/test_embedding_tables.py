"""Large tables of embeddings, whose gradients the ranks exchange by rows; two ranks are acted by one."""

import numpy as np
import paddle
from paddle import nn

from rdrop_paddle.training import tables


def test_only_rows_that_are_not_zero_travel_and_the_average_is_that_of_whole_gradients(monkeypatch):
    mine, other = np.zeros([2, 40, 3], "float32")
    mine[[3, 7]], other[[7, 20]] = [[1, -1, 0], [2, 2, 2]], [[4, 4, 4], [0, 0, 8]]  # the first row's sum is 0
    sizes, travelled = np.abs(other).sum(axis=1), []

    def sum_over_all(tensor):
        travelled.append(tensor.shape)
        return tensor + paddle.to_tensor(sizes if tensor.ndim == 1 else other[[3, 7, 20]])

    monkeypatch.setattr(tables.ranks, "sum_over_all", sum_over_all)
    monkeypatch.setattr(tables.ranks, "count", lambda: 2)
    gradient = paddle.to_tensor(mine)
    tables.average_rows(gradient)
    assert travelled == [[40], [3, 3]]
    np.testing.assert_array_equal(gradient.numpy(), (mine + other) / 2)


def test_large_tables_alone_are_taken_from_the_first_rank_and_from_data_parallel(monkeypatch):
    from_first = []
    monkeypatch.setattr(tables.distributed, "broadcast", lambda tensor, src: from_first.append((tensor, src)))
    model = nn.LayerList([nn.Embedding(tables.LARGE, 2), nn.Embedding(10, 2), nn.Linear(2, 2)])
    tables.Tables(model.sublayers())
    large = model[0].weight
    assert [(tensor is large, src) for tensor, src in from_first] == [(True, 0)]
    assert [getattr(p, "no_sync", False) for p in model.parameters()] == [True, False, False, False]
