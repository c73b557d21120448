"""What dropout does at each site, by statistics over many elements."""

import numpy as np
import paddle
import pytest

from rdrop_paddle import build_model

RATES = {"drop_rate": 0.1, "proj_drop_rate": 0.25}


@pytest.fixture
def recorded(tiny_config):
    """recorded(passes) -> {site: (input, output)} of one forward of 512 images in training mode."""
    overrides = [f"model.{name}={rate}" for name, rate in RATES.items()]
    model = build_model(tiny_config(*overrides).model)
    images = paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, [512, 3, 8, 8]).astype("float32"))

    def run(training=True):
        seen = {}
        for name, layer in model.named_sublayers():
            if isinstance(layer, paddle.nn.Dropout):
                layer.register_forward_post_hook(lambda _, x, y, name=name: seen.update({name: (x[0].numpy(), y.numpy())}))
        model.train() if training else model.eval()
        paddle.seed(1)
        model(images, passes=2)
        return seen

    return run


def test_each_site_drops_at_its_rate_and_scales_the_rest(recorded):
    sites = recorded()
    assert len(sites) == 1 + 2 * 3
    for name, (before, after) in sites.items():
        rate = RATES["proj_drop_rate" if name.endswith("proj_drop") else "drop_rate"]
        dropped = after == 0
        deviation = np.sqrt(rate * (1 - rate) / before.size)
        assert abs(dropped.mean() - rate) < 5 * deviation, name
        np.testing.assert_allclose(after[~dropped], before[~dropped] / (1 - rate), rtol=1e-5, err_msg=name)


def test_the_two_passes_are_independent(recorded):
    for name, (_, after) in recorded().items():
        rate = RATES["proj_drop_rate" if name.endswith("proj_drop") else "drop_rate"]
        assert len(after) == 2 * 512, name
        first, second = np.split(after == 0, 2)
        both, deviation = (first & second).mean(), np.sqrt(rate**2 * (1 - rate**2) / first.size)
        assert abs(both - rate**2) < 5 * deviation, name  # equal masks would give the rate itself


def test_sites_and_samples_have_masks_of_their_own(recorded):
    sites = recorded()
    same_shape = [sites[name][1] == 0 for name in ("blocks.0.mlp.drop1", "blocks.1.mlp.drop1")]
    assert abs((same_shape[0] & same_shape[1]).mean() - 0.01) < 0.001
    even, odd = same_shape[0][::2], same_shape[0][1::2]
    assert abs((even & odd).mean() - 0.01) < 0.001


def test_evaluation_drops_nothing(recorded):
    for name, (before, after) in recorded(training=False).items():
        np.testing.assert_array_equal(before, after, err_msg=name)
