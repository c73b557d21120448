"""Loading into any layer: what fits is set, what does not is a row or an error, and what is not numbers is refused."""

import numpy as np
import paddle
import pytest

from rdrop_paddle import UserError
from rdrop_paddle.weights.loading import SourceWeights, load_into
from rdrop_paddle.weights.report import WeightReport


@pytest.fixture
def layer():
    return paddle.nn.Sequential(paddle.nn.Linear(2, 3), paddle.nn.Linear(3, 4))


def source_of(layer, **changes):
    source = SourceWeights("made", "")
    for name, parameter in layer.named_parameters():
        source.add(name, np.full(parameter.shape, 0.5, "float32"), "loaded", name)
    source.tensors |= changes
    return source


def values(layer):
    return {name: parameter.numpy().copy() for name, parameter in layer.named_parameters()}


def test_any_layer_is_loaded_its_head_reset_and_another_shape_resized(layer):
    source, report = source_of(layer, **{"0.bias": np.ones(5, "float32")}), WeightReport("w", "made", "")
    load_into(layer, source, report, reset=["1."], resize=lambda name, array, shape: (array[: shape[0]], "cut"))
    assert report.names("loaded") == ["0.weight"] and report.names("reset") == ["1.weight", "1.bias"]
    assert report.rows[1] == ("0.bias", "resized", "[5] to [3], cut")
    found = values(layer)
    assert (found["0.weight"] == 0.5).all() and (found["0.bias"] == 1).all() and not found["1.weight"].any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"0.bias": np.ones(5, "float32")}, r"0.bias misshapen \(\[5\] in the file, \[3\] in the model\)"),
        ({"0.bias": np.ones(3, "int64")}, r"0.bias misshapen \(type int64 in the file"),
        ({"2.bias": np.ones(3, "float32")}, "2.bias unexpected"),
    ],
)
def test_what_does_not_fit_changes_nothing(layer, change, message):
    before = values(layer)
    with pytest.raises(UserError, match=message):
        load_into(layer, source_of(layer, **change), WeightReport("w", "made", ""))
    assert all((array == before[name]).all() for name, array in values(layer).items())


@pytest.mark.parametrize(
    "array, wrong",
    [
        (np.float16([1, np.inf]), True),
        (np.float32([1, -np.inf]), True),
        (np.float32([np.nan, 1]), True),
        (np.float64([1, -1e39]), True),  # infinite once it is float32
        (np.float64([1e38]), False),
        (np.float16([65504, 0]), False),
        (np.zeros([0, 3], "float32"), False),
    ],
)
def test_the_first_tensor_that_is_not_finite_is_named(array, wrong):
    source = SourceWeights("made", "", tensors={"a": np.ones(3), "b": array, "c": np.float32([np.nan])})
    with pytest.raises(UserError, match=f"^w: {'b' if wrong else 'c'} holds NaN or infinity"):
        source.refuse_nonfinite("w")
