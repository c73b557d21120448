import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from rdrop_paddle.durability import checkpoint
from rdrop_paddle.durability.checkpoint import model_arrays
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.ema import WeightAverage
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision.task import ImageClassification


def test_an_average_is_decay_times_itself_plus_the_rest_of_the_parameter():
    model = paddle.nn.Linear(2, 3)
    average = WeightAverage(model, 0.9)
    expected = {name: p.numpy().astype("float64") for name, p in model.named_parameters()}
    for update in range(1, 6):
        for parameter in model.parameters():
            parameter.set_value(parameter + update)
        average.update()
        for name, parameter in model.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * parameter.numpy()
    for name, array in average.arrays().items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], rtol=1e-6)


def test_averages_take_the_place_of_the_weights_and_give_it_back_to_the_bit():
    model = paddle.nn.Linear(2, 3)
    average = WeightAverage(model, 0.5)
    model.weight.set_value(model.weight + 1.0)
    average.update()
    before, averages = model_arrays(model), average.arrays()
    with pytest.raises(KeyError), average.in_use():
        assert all((model_arrays(model)[name] == averages[name]).all() for name in averages)
        raise KeyError
    assert all(model_arrays(model)[name].tobytes() == before[name].tobytes() for name in before)
    assert (averages["weight"] != before["weight"]).all()


def trained(config):
    """(run folder, weights in the model at each evaluation) of a run of its own weights."""
    paddle.seed(0)
    trainer, seen = Trainer(ImageClassification(config), config), []
    original = engine.evaluate

    def evaluate(task, split, *others, **selecting):
        seen.append((split, model_arrays(task.model)))
        return original(task, split, *others, **selecting)

    with pytest.MonkeyPatch.context() as patch, RunLog(config) as log:
        patch.setattr(engine, "evaluate", evaluate)
        engine.train(trainer, log)
    return log.folder, seen


def same(a, b):
    return all(a[name].tobytes() == b[name].tobytes() for name in b)


def test_the_averages_are_evaluated_saved_and_the_best_weights_while_training_is_as_without(tiny_config):
    overrides = ["train.steps=3", "train.lr=0.3", "train.log_every=3"]
    plain, without = trained(tiny_config(*overrides, "name=plain"))
    folder, seen = trained(tiny_config(*overrides, "name=averaged", "train.ema_decay=0.9"))
    last = checkpoint.latest(folder)
    model, averages = checkpoint.load_arrays(last, "model"), checkpoint.load_arrays(last, "ema")
    assert same(model, checkpoint.load_arrays(checkpoint.latest(plain), "model")) and not same(model, averages)
    best = load_file(folder / "best.safetensors")
    assert [split for split, _ in seen] == ["val", "test"]
    for arrays in (best, *(arrays for _, arrays in seen)):
        assert same(arrays, averages)
    assert same(without[0][1], model) and not (checkpoint.latest(plain) / "ema.safetensors").exists()
    assert json.loads((last / "state.json").read_text())["config"]["train"]["ema_decay"] == 0.9
