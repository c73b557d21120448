import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddle import nn

from rdrop_paddle import layers
from rdrop_paddle.layers import Dropout, LayerNorm, Linear, attention, attention_backend, keep_mask

PAIRS = {"linear": (Linear, nn.Linear, (24, 40)), "layer_norm": (LayerNorm, nn.LayerNorm, (24,))}


@pytest.fixture(params=PAIRS)
def pair(request):
    """(ours, Paddle's), with the same parameters, none of which is 0 or 1."""
    ours, paddles, sizes = PAIRS[request.param]
    ours, paddles = ours(*sizes), paddles(*sizes)
    for seed, (a, b) in enumerate(zip(ours.parameters(), paddles.parameters())):
        value = np.random.default_rng(seed).normal(0.3, 1, a.shape).astype("float32")
        a.set_value(value), b.set_value(value)
    return ours, paddles


def output_and_gradients(layer, x, dtype="float32"):
    layer.to(dtype=dtype)
    x = paddle.to_tensor(x.astype(dtype), stop_gradient=False)
    y = layer(x)
    weights = np.random.default_rng(9).normal(size=y.shape).astype(dtype)
    (y * paddle.to_tensor(weights)).sum().backward()
    found = [y, x.grad, *(p.grad for p in layer.parameters())]
    return [np.array(t.numpy()) for t in found]


def test_outputs_are_paddles_to_the_bit_and_gradients_to_rounding(pair):
    x = np.random.default_rng(5).normal(2, 3, [4, 7, 24]).astype("float32")
    ours, paddles = (output_and_gradients(layer, x) for layer in pair)
    assert ours[0].tobytes() == paddles[0].tobytes()
    with paddle.no_grad():
        assert pair[0](paddle.to_tensor(x)).numpy().tobytes() == ours[0].tobytes()
    for a, b in zip(ours[1:], paddles[1:]):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())


def test_gradients_are_the_numeric_ones(pair):
    layer = pair[0]
    x = np.random.default_rng(6).normal(2, 3, [5, 24])
    _, of_x, *of_parameters = output_and_gradients(layer, x, "float64")

    def value(x):
        y = layer(paddle.to_tensor(x)).numpy()
        return (y * np.random.default_rng(9).normal(size=y.shape)).sum()

    step, direction = 1e-6, np.random.default_rng(7).normal(size=x.shape)
    numeric = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert numeric == pytest.approx((of_x * direction).sum(), rel=1e-6)
    for parameter, gradient in zip(layer.parameters(), of_parameters):
        start, direction = parameter.numpy().copy(), np.random.default_rng(8).normal(size=parameter.shape)
        values = []
        for sign in (1, -1):
            parameter.set_value(start + sign * step * direction)
            values.append(value(x))
        parameter.set_value(start)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx((gradient * direction).sum(), rel=1e-6)


def test_a_large_mean_costs_layer_norms_gradient_no_precision():
    """Rows of mean 1000 and deviation 1: a variance from mean squares would keep one digit of them."""
    layer = LayerNorm(24)
    x = 1000 + np.random.default_rng(1).normal(size=[8, 24]).round(1)  # float32 holds these to 3e-5
    single, double = (output_and_gradients(layer, x, dtype)[1] for dtype in ("float32", "float64"))
    np.testing.assert_allclose(single, double, atol=1e-3 * np.abs(double).max())


def test_a_linear_layer_without_bias_and_static_graphs_are_paddles(tmp_path):
    layer = nn.Sequential(LayerNorm(6), Linear(6, 4, bias_attr=False), Linear(4, 3), Dropout(0.5))
    layer.eval()
    x = paddle.randn([5, 6])
    paddle.jit.save(layer, str(tmp_path / "layer"), input_spec=[paddle.static.InputSpec([None, 6])])
    np.testing.assert_array_equal(paddle.jit.load(str(tmp_path / "layer"))(x).numpy(), layer(x).numpy())


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_drop_at_the_rate_and_keep_the_mean(rate):
    paddle.seed(3)
    keep, factor = keep_mask([1000, 999], rate)
    assert keep.shape == (1000, 999) and keep.dtype == bool
    deviation = np.sqrt(rate * (1 - rate) / keep.size)
    assert abs(1 - keep.mean() - rate) < 5 * deviation
    assert factor == pytest.approx(1 / (1 - rate), rel=1e-3)
    # neighbours, which come from the same random word, know nothing of each other
    for shift in (1, 2, 3, 4):
        both = (~keep.ravel()[shift:] & ~keep.ravel()[:-shift]).mean()
        assert abs(both - rate**2) < 5 * np.sqrt(rate**2 / keep.size)


def test_a_mask_is_a_function_of_paddles_generator():
    drop = Dropout(0.3)
    x = paddle.ones([64, 32])
    paddle.seed(7)
    state = paddle.get_rng_state()
    first, second = drop(x).numpy(), drop(x).numpy()
    paddle.set_rng_state(state)
    assert (drop(x).numpy() == first).all() and (first != second).any()
    paddle.seed(8)
    assert (drop(x).numpy() != first).any()


def test_what_is_dropped_gets_no_gradient_and_the_rest_the_factor():
    x = paddle.randn([64, 32])
    x.stop_gradient = False
    y = Dropout(0.25)(x)
    y.sum().backward()
    dropped = y.numpy() == 0
    assert 0.1 < dropped.mean() < 0.4
    np.testing.assert_allclose(x.grad.numpy(), np.where(dropped, 0, 4 / 3), rtol=1e-4)


@pytest.mark.parametrize("rate", [1e-9, 1 - 1e-9])
def test_extreme_rates_still_are_rates(rate):
    _, factor = keep_mask([8], rate)
    assert factor in (layers.STEPS, layers.STEPS / (layers.STEPS - 1))


def test_dropout_of_everything_nothing_and_in_evaluation():
    x = paddle.randn([8, 8])
    assert (Dropout(1.0)(x).numpy() == 0).all()
    drop = Dropout(0.5)
    drop.eval()
    for same in (Dropout(0.0)(x), drop(x)):
        assert (same.numpy() == x.numpy()).all()


def attended_and_gradients(mask):
    """`attention` of 3 queries on 5 keys in 4 heads of width 8, and the gradients of all three."""
    rng = np.random.default_rng(11)
    tensors = [paddle.to_tensor(rng.normal(0, 2, [2, length, 4, 8]).astype("float32")) for length in (3, 5, 5)]
    for tensor in tensors:
        tensor.stop_gradient = False
    result = attention(*tensors, mask)
    (result * paddle.to_tensor(rng.normal(size=result.shape).astype("float32"))).sum().backward()
    return [array.numpy() for array in (result, *(tensor.grad for tensor in tensors))]


def attended_by_numpy(mask):
    rng = np.random.default_rng(11)
    query, key, value = (rng.normal(0, 2, [2, length, 4, 8]) for length in (3, 5, 5))
    scores = np.einsum("nqhw,nkhw->nhqk", query, key) / 8**0.5 + (0 if mask is None else mask.numpy())
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("nhqk,nkhw->nqhw", weights / weights.sum(axis=-1, keepdims=True), value)


MASK = np.where(np.arange(5) < [[4], [2]], 0, -np.inf)[:, None, None]  # [2, 1, 1, 5]: padding at the end of the keys


@pytest.mark.parametrize("mask", [None, paddle.to_tensor(MASK, "float64")], ids=["all keys", "some keys"])
def test_attention_is_softmax_of_the_scaled_products_with_the_mask_added(mask):
    found = attended_and_gradients(mask)
    np.testing.assert_allclose(found[0], attended_by_numpy(mask), atol=2e-6)
    if mask is not None:  # on a CPU Paddle's softmax gives exp(-64) in the place of 0
        assert max(np.abs(of_masked).max() for of_masked in (found[2][0, 4], found[3][1, 2:])) < 1e-20


@pytest.mark.parametrize("device, masked", [("gpu:0", False), ("gpu:0", True), ("cpu", True)])
def test_where_paddle_2_has_flash_attention_alone_it_is_not_asked(monkeypatch, device, masked):
    mask = paddle.to_tensor(MASK, "float32") if masked else None
    expected = attended_and_gradients(mask)
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", None)
    for found, value in zip(attended_and_gradients(mask), expected):
        np.testing.assert_allclose(found, value, atol=2e-6 * np.abs(value).max())


@pytest.mark.parametrize("version", [paddle.__version__, "2.6.2"])
def test_causal_attention_sees_nothing_later_and_dropout_takes_whole_weights(monkeypatch, version):
    query, key, value = paddle.randn([3, 2, 5, 4, 8]).unbind(0)
    later = paddle.triu(paddle.full([5, 5], -1e4), 1)
    expected = attention(query, key, value, later).numpy()
    monkeypatch.setattr(paddle, "__version__", version)
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0" if version.startswith("2.") else "cpu")
    np.testing.assert_allclose(attention(query, key, value, causal=True).numpy(), expected, atol=2e-6)
    ones = attention(query, key, paddle.ones_like(value), drop_rate=0.5).numpy()  # sums of the weights that are kept
    assert np.abs(ones - 1).max() > 0.1 and ones.mean() == pytest.approx(1, abs=0.2)


def test_nothing_else_asks_paddle_for_attention():
    callers = [p.name for p in (ROOT / "rdrop_paddle").rglob("*.py") if "scaled_dot_product_attention(" in p.read_text()]
    assert callers == ["layers.py"]


def test_the_attention_that_ran_is_told_by_its_gradient(monkeypatch):
    assert attention_backend(64, "float32") == "plain"

    class FlashAttnGradNode:
        def name(self):
            return type(self).__name__

    class Result:
        grad_fn = FlashAttnGradNode()

    monkeypatch.setattr(layers, "attention", lambda *_: Result())
    assert attention_backend(64, "float32") == "flash"
