import paddle
import pytest

from rdrop_paddle.training.schedule import WarmupCosine, lr_at

RECIPE = dict(steps=10_000, warmup_steps=500, peak=0.02)


def test_recipes_first_peak_middle_and_last_values():
    assert lr_at(1, **RECIPE) == 0.02 / 500
    assert lr_at(500, **RECIPE) == 0.02
    assert lr_at(5250, **RECIPE) == pytest.approx(0.01)
    assert lr_at(10_000, **RECIPE) == 0.0


def test_without_warm_up_the_cosine_starts_at_once():
    assert lr_at(5, steps=10, warmup_steps=0, peak=1.0) == pytest.approx(0.5)


def test_an_optimizer_uses_lr_at_for_every_update():
    parameter = paddle.create_parameter([1], "float32", default_initializer=paddle.nn.initializer.Constant(0.0))
    schedule = WarmupCosine(steps=7, warmup_steps=3, peak=0.5)
    optimizer = paddle.optimizer.SGD(schedule, parameters=[parameter])
    for update in range(1, 8):
        before = parameter.item()
        parameter.sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        used = before - parameter.item()
        assert used == pytest.approx(lr_at(update, steps=7, warmup_steps=3, peak=0.5), abs=1e-7)


def test_a_resumed_schedule_holds_the_next_updates_rate():
    schedule = WarmupCosine(steps=7, warmup_steps=3, peak=0.5)
    schedule.step(4)
    assert schedule() == lr_at(5, steps=7, warmup_steps=3, peak=0.5)
