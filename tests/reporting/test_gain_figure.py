import numpy as np
import pytest

from rdrop_paddle.reporting import gain_figure
from rdrop_paddle.reporting.comparisons import interval
from rdrop_paddle.reporting.gain_figure import Gain


def test_a_gain_stands_with_its_interval_above_the_kl_that_nothing_held_down():
    logs = {seed: {"train/kl": [(10 * n, (seed + 1) * n / 100) for n in range(1, 21)]} for seed in range(2)}
    gains = [Gain("one", [1.0, 2.0, 6.0], logs), Gain("other", [-1.0], {0: {"train/kl": [(10, 0.3), (20, 0.5)]}})]
    figure = gain_figure.draw(gains)
    over_time, against = figure.axes
    np.testing.assert_allclose(over_time.lines[0].get_xydata()[[0, -1]], [[5, 0.015], [100, 0.3]])
    np.testing.assert_allclose([bar.lines[0].get_xydata()[0] for bar in against.containers], [[0.2925, 3], [0.5, -1]])
    (low, high) = against.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert [low, high] == pytest.approx([3 - interval([1, 2, 6])[1], 3 + interval([1, 2, 6])[1]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one (3 seeds)", "other (1 seed)"]
