import pytest

from rdrop_paddle.reporting.summary import _learning_rate


@pytest.mark.parametrize(
    "overrides, line",
    [
        ([], "peak 0.2 after 4 updates, then a cosine down to 0"),
        (["train.schedule=linear"], "peak 0.2 after 4 updates, then a straight line down to 0"),
        (["train.schedule=polynomial", "train.power=2"], "then (share of the updates left)^2.0 down to 0"),
        (["train.schedule=inverse_sqrt"], "peak 0.2 after 4 updates, then falling as 1 / sqrt(update) to 0.126"),
        (["train.warmup_init_lr=0.1"], "peak 0.2 after 4 updates from 0.1, then a cosine down to 0"),
        (["train.warmup_init_lr=0.1", "train.warmup_steps=0"], "peak 0.2 after 0 updates, then a cosine down to 0"),
    ],
)
def test_the_learning_rates_line_tells_the_schedule(tiny_config, overrides, line):
    train = tiny_config("train.steps=10", "train.warmup_steps=4", "train.lr=0.2", *overrides).train
    assert _learning_rate(train).endswith(line)
