import math

import paddle
import pytest
from conftest import BASE

from rdrop_paddle import load_config
from rdrop_paddle.training.schedule import Schedule, cosine, inverse_sqrt, learning_rate, polynomial

RECIPE = dict(steps=10_000, warmup_steps=500, peak=0.02)
SCHEDULES = {
    "cosine": cosine,
    "linear": polynomial,
    "polynomial": lambda update, **given: polynomial(update, power=2.0, **given),
    "inverse_sqrt": lambda update, steps, **given: inverse_sqrt(update, **given),
}


def fairseqs_inverse_sqrt(num_updates, warmup_updates, lr, warmup_init_lr):
    if num_updates < warmup_updates:
        return warmup_init_lr + num_updates * (lr - warmup_init_lr) / warmup_updates
    return lr * warmup_updates**0.5 * num_updates**-0.5


def fairseqs_polynomial_decay(num_updates, total_num_update, warmup_updates, lr, power):
    if warmup_updates > 0 and num_updates <= warmup_updates:
        return num_updates / warmup_updates * lr
    return lr * (1 - (num_updates - warmup_updates) / (total_num_update - warmup_updates)) ** power


def attention_is_all_you_needs(step_num, width, warmup_steps):
    return width**-0.5 * min(step_num**-0.5, step_num * warmup_steps**-1.5)


def test_recipes_first_peak_middle_and_last_values():
    assert cosine(1, **RECIPE) == 0.02 / 500
    assert cosine(500, **RECIPE) == 0.02
    assert cosine(5250, **RECIPE) == pytest.approx(0.01)
    assert cosine(10_000, **RECIPE) == 0.0


def test_the_cosines_numbers_are_the_published_runs_to_the_bit():
    """Their updates before there were other schedules: peak * update / warmup_steps, then the cosine."""
    for update in (1, 2, 3, 7, 77, 333, 499, 500):
        assert cosine(update, **RECIPE) == 0.02 * update / 500
    for update in (501, 502, 3333, 9999):
        assert cosine(update, **RECIPE) == 0.5 * 0.02 * (1.0 + math.cos(math.pi * ((update - 500) / 9500)))


def test_inverse_sqrts_first_peak_and_last_values_are_fairseqs_and_the_transformers():
    translation = dict(warmup_steps=4000, peak=5e-4, warmup_init_lr=1e-7)
    assert inverse_sqrt(1, **translation) == pytest.approx(1e-7 + (5e-4 - 1e-7) / 4000, rel=1e-12)
    assert inverse_sqrt(4000, **translation) == 5e-4
    assert inverse_sqrt(16_000, **translation) == 2.5e-4
    for update in (1, 2, 1234, 3999, 4000, 4001, 300_000):
        expected = fairseqs_inverse_sqrt(update, warmup_updates=4000, lr=5e-4, warmup_init_lr=1e-7)
        assert inverse_sqrt(update, **translation) == pytest.approx(expected, rel=1e-12)
        found = inverse_sqrt(update, warmup_steps=4000, peak=(512 * 4000) ** -0.5)
        assert found == pytest.approx(attention_is_all_you_needs(update, width=512, warmup_steps=4000), rel=1e-12)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_polynomials_first_peak_and_last_values_are_fairseqs(power):
    understanding = dict(steps=2036, warmup_steps=122, peak=1e-5)
    assert polynomial(1, power=power, **understanding) == 1e-5 / 122
    assert polynomial(122, power=power, **understanding) == 1e-5
    assert polynomial(1079, power=power, **understanding) == pytest.approx(1e-5 * 0.5**power, rel=1e-12)  # half of the way
    assert polynomial(2036, power=power, **understanding) == 0.0
    for update in (1, 121, 123, 1000, 2035):
        expected = fairseqs_polynomial_decay(update, total_num_update=2036, warmup_updates=122, lr=1e-5, power=power)
        assert polynomial(update, power=power, **understanding) == pytest.approx(expected, rel=1e-12)


def test_linear_is_transformers_one_step_ahead_of_its_numbering():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-5)
    theirs = transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps=3, num_training_steps=10)
    linear = learning_rate(
        load_config(BASE, ["train.schedule=linear", "train.steps=10", "train.warmup_steps=3", "train.lr=3e-5"]).train
    )
    for update in range(11):
        optimizer.step()
        if update > 0:
            assert linear(update) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=0)
        theirs.step()


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
def test_without_warm_up_the_way_down_starts_at_once(name):
    of_update = lambda update: SCHEDULES[name](update, steps=10, warmup_steps=0, peak=1.0)  # noqa: E731
    assert 0.8 < of_update(1) < 1 and of_update(10) == 0.0
    assert of_update(5) == pytest.approx(0.25 if name == "polynomial" else 0.5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warm_up_rises_in_a_straight_line_from_its_initial_rate_to_the_peak(name):
    rates = [SCHEDULES[name](update, steps=20, warmup_steps=4, peak=0.5, warmup_init_lr=0.1) for update in (1, 2, 3, 4, 5)]
    assert rates[:4] == pytest.approx([0.2, 0.3, 0.4, 0.5]) and rates[4] < 0.5


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ([], {1: 0.05, 4: 0.2, 7: 0.1, 10: 0.0}),
        (["train.schedule=linear", "train.power=3"], {1: 0.05, 4: 0.2, 7: 0.1, 10: 0.0}),
        (["train.schedule=polynomial", "train.power=2"], {1: 0.05, 4: 0.2, 7: 0.05, 10: 0.0}),
        (["train.schedule=inverse_sqrt", "train.warmup_init_lr=0.1"], {1: 0.125, 4: 0.2, 9: 0.4 / 3}),
    ],
)
def test_the_schedule_is_the_configs(overrides, expected):
    train = load_config(BASE, ["train.steps=10", "train.warmup_steps=4", "train.lr=0.2", *overrides]).train
    assert {update: learning_rate(train)(update) for update in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_optimizer_uses_the_function_itself_for_every_update(name):
    of_update = lambda update: SCHEDULES[name](update, steps=7, warmup_steps=3, peak=0.3)  # noqa: E731
    parameter = paddle.create_parameter([1], "float32", default_initializer=paddle.nn.initializer.Constant(0.0))
    schedule = Schedule(of_update)
    optimizer = paddle.optimizer.SGD(schedule, parameters=[parameter])
    for update in range(1, 8):
        before = parameter.item()
        parameter.sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        assert optimizer.get_lr() == of_update(update)
        schedule.step()
        used = before - parameter.item()
        assert used == pytest.approx(of_update(update), abs=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_schedule_holds_the_next_updates_rate(name):
    of_update = lambda update: SCHEDULES[name](update, steps=7, warmup_steps=3, peak=0.5)  # noqa: E731
    schedule = Schedule(of_update)
    schedule.step(4)
    assert schedule() == of_update(5)
