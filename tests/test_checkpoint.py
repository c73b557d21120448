import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from rdrop_paddle import UserError, checkpoint, engine, load_weights
from rdrop_paddle.engine import Trainer
from rdrop_paddle.runlog import RunLog
from rdrop_paddle.vision.task import ImageClassification


@pytest.fixture
def trained(tiny_config, tmp_path):
    """(trainer after two updates, run folder)"""
    trainer = Trainer(ImageClassification(tiny_config()), tiny_config())
    for _ in range(2):
        trainer.step(trainer.read()[0])
    return trainer, tmp_path


def test_weights_momentum_and_learning_rate_come_back(trained, tiny_config):
    trainer, folder = trained
    trainer.best = 0.25
    trainer.save(folder)
    other = Trainer(ImageClassification(tiny_config("train.seed=9")), tiny_config())
    other.restore(folder)
    assert (other.updates_done, other.best) == (2, 0.25)
    assert other.optimizer.get_lr() == trainer.optimizer.get_lr()
    arrays = lambda t: (checkpoint.model_arrays(t.task.model), checkpoint.momentum_arrays(t.task.model, t.optimizer, t.shards))  # noqa: E731
    for saved, loaded in zip(arrays(trainer), arrays(other)):
        assert saved.keys() == loaded.keys() and len(saved) == len(list(trainer.task.model.parameters()))
        assert all(saved[name].tobytes() == loaded[name].tobytes() and saved[name].any() for name in saved)


def test_the_newest_checkpoints_are_kept_and_unfinished_ones_ignored(trained):
    trainer, folder = trained
    for update in (2, 4, 10):
        trainer.updates_done = update
        trainer.save(folder)
    (folder / "checkpoints" / "update-00000012.part").mkdir()
    assert [p.name for p in checkpoint._all(folder)] == ["update-00000004", "update-00000010"]
    assert checkpoint.latest(folder).name == "update-00000010"


def test_a_checkpoint_of_another_model_is_an_error(trained, tiny_config):
    trainer, folder = trained
    trainer.save(folder)
    with pytest.raises(UserError, match="holds another model than the config describes"):
        Trainer(ImageClassification(tiny_config("model.depth=3")), tiny_config()).restore(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "momentum.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_a_user_error(trained, tiny_config, name):
    trainer, folder = trained
    trainer.save(folder)
    path = checkpoint.latest(folder) / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="damaged checkpoint .*update-00000002"):
        Trainer(ImageClassification(tiny_config()), tiny_config()).restore(folder)


def test_other_ranks_save_nothing(trained):
    trainer, folder = trained
    trainer.rank = 1
    trainer.save(folder)
    assert checkpoint.latest(folder) is None


def test_best_weights_name_their_origin_and_load_as_any_weights(trained):
    trainer, folder = trained
    checkpoint.save_best(folder, trainer.task.model, update=2, val_accuracy=0.5)
    with safe_open(str(folder / "best.safetensors"), framework="numpy") as file:
        assert file.metadata() == {"format": "rdrop_paddle", "update": "2", "val_accuracy": "0.5"}
    assert load_weights(trainer.task.model, folder / "best.safetensors").names("loaded")


def metrics(folder):
    """metrics.jsonl without what depends on the clock."""
    clock = ("images_per_second", "reader_cost", "batch_cost")
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in lines]


def test_resuming_equals_not_stopping(tiny_config, tmp_path):
    class Killed(Exception):
        pass

    def run(name, last=None, resume=False):
        """Train to the end, or die after update `last`; returns the final weights."""
        config = tiny_config(f"name={name}", "train.save_every=2")
        folder = tmp_path / "output" / name
        task = ImageClassification(config)
        if not resume:
            for n, parameter in enumerate(task.model.parameters()):
                parameter.set_value(np.random.default_rng(n).normal(0, 0.05, parameter.shape).astype("float32"))
        trainer = Trainer(task, config)
        if resume:
            trainer.restore(folder)
        step = trainer.step

        def step_or_die(micro_batches):
            if trainer.updates_done == last:
                raise Killed
            step(micro_batches)

        trainer.step = step_or_die
        with RunLog(config, kept_updates=trainer.updates_done) as log, contextlib.suppress(Killed):
            engine.train(trainer, log)
        return checkpoint.model_arrays(task.model)

    straight = run("straight")
    run("stopped", last=5)
    assert checkpoint.latest(tmp_path / "output" / "stopped").name == "update-00000004"
    resumed = run("stopped", resume=True)
    assert all(straight[name].tobytes() == resumed[name].tobytes() for name in straight)
    assert metrics(tmp_path / "output" / "stopped") == metrics(tmp_path / "output" / "straight")
