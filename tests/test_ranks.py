import paddle

from rdrop_paddle import ranks


def test_a_sum_is_waited_for_in_a_way_that_lets_the_heartbeat_go_on(monkeypatch):
    """Paddle's Tensor.item() keeps Python's lock until the device has answered; Tensor.numpy() gives it away."""
    monkeypatch.setattr(paddle.Tensor, "item", None)
    assert ranks.total(3) == 3 and ranks.from_first(7) == 7
