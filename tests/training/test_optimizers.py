import numpy as np
import pytest

from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision.task import ImageClassification

OPTIMIZERS = pytest.mark.parametrize("optimizer", ["momentum", "adamw"])


@OPTIMIZERS
def test_the_state_of_a_parameter_that_no_loss_reaches_is_kept_as_it_began(tiny_config, tmp_path, optimizer):
    config = tiny_config(f"train.optimizer={optimizer}", "train.betas=[0.75,0.5]")

    def trainer_with_one_more_parameter():
        task = ImageClassification(config)
        task.model.add_parameter("unused", task.model.create_parameter([3, 2]))
        return Trainer(task, config)

    trainer, other = trainer_with_one_more_parameter(), trainer_with_one_more_parameter()
    trainer.step(trainer.read()[0])
    trainer.save(tmp_path)
    other.restore(tmp_path)
    other.step(other.read()[0])
    expected = {"beta1_power": [0.75], "beta2_power": [0.5]}
    for found in (trainer.optimizer_state.arrays(), other.optimizer_state.arrays()):
        for slot, arrays in found.items():
            np.testing.assert_array_equal(arrays["unused"], np.array(expected.get(slot, np.zeros([3, 2])), "float32"))
            assert arrays["head.bias"].any() and (arrays["head.bias"] != expected.get(slot, 0)).any()


@OPTIMIZERS
def test_a_second_trainer_of_a_model_has_a_state_of_its_own(tiny_config, optimizer):
    """Paddle numbers the tensors of a second optimizer on."""
    config = tiny_config(f"train.optimizer={optimizer}")
    task = ImageClassification(config)
    found = []
    for _ in range(2):
        for seed, parameter in enumerate(task.model.parameters()):
            parameter.set_value(np.random.default_rng(seed).normal(0, 0.1, parameter.shape).astype("float32"))
        trainer = Trainer(task, config)
        trainer.step(trainer.read()[0])
        found.append({slot: arrays["head.weight"].tobytes() for slot, arrays in trainer.optimizer_state.arrays().items()})
    assert found[0] == found[1] and all(map(any, found[0].values()))
