import contextlib

import numpy as np
import paddle
import pytest
from conftest import logged
from safetensors import safe_open

from rdrop_paddle import UserError, load_weights
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision.task import ImageClassification


@pytest.fixture
def trained(tiny_config, tmp_path):
    """(trainer after two updates, run folder)"""
    trainer = Trainer(ImageClassification(tiny_config()), tiny_config())
    for _ in range(2):
        trainer.step(trainer.read()[0])
    return trainer, tmp_path


@pytest.mark.parametrize(
    "optimizer, slots",
    [("momentum", ["momentum"]), ("adamw", ["first_moment", "second_moment", "beta1_power", "beta2_power"])],
)
def test_weights_momentum_and_learning_rate_come_back(tiny_config, tmp_path, optimizer, slots):
    config, folder = tiny_config(f"train.optimizer={optimizer}"), tmp_path
    trainer = Trainer(ImageClassification(config), config)
    for _ in range(2):
        trainer.step(trainer.read()[0])
    trainer.best = 0.25
    trainer.save(folder)
    assert {path.stem for path in checkpoint.latest(folder).glob("*.safetensors")} == {"model", *slots}
    paddle.seed(9)
    other = Trainer(ImageClassification(config), config)
    other.restore(folder)
    assert (other.updates_done, other.best) == (2, 0.25)
    assert other.optimizer.get_lr() == trainer.optimizer.get_lr()
    arrays = lambda t: (checkpoint.model_arrays(t.task.model), *t.optimizer_state.arrays().values())  # noqa: E731
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


def test_a_stop_just_after_a_checkpoint_leaves_it_as_it_is(trained):
    trainer, folder = trained
    trainer.save(folder)
    written = checkpoint.latest(folder).stat()
    trainer.save(folder)
    assert checkpoint.latest(folder).stat() == written


@pytest.fixture
def two_checkpoints(tiny_config, tmp_path):
    """The run folder of a run with averages and checkpoints after updates 2 and 4, and its config."""
    config = tiny_config("train.ema_decay=0.9", "name=run")
    trainer = Trainer(ImageClassification(config), config)
    for update in range(1, 5):
        trainer.step(trainer.read()[0])
        if update % 2 == 0:
            trainer.save(tmp_path / "output" / "run")
    return tmp_path / "output" / "run", config


FILES = ["model.safetensors", "momentum.safetensors", "ema.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_cut_or_a_flipped_bit_is_always_found_and_fallen_back_from(two_checkpoints, name):
    folder, _ = two_checkpoints
    older, newer = checkpoint._all(folder)
    assert sorted(path.name for path in newer.iterdir()) == sorted(FILES)
    content = (newer / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[: len(content) * cut // 20] for cut in range(20)]
    for bit in rng.choice(8 * len(content), 200, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for wrong in damaged:
        (newer / name).write_bytes(wrong)
        found, faults = checkpoint.verify(folder)
        assert found == older and faults.keys() == {newer} and faults[newer].startswith(name)
    (newer / name).unlink()
    assert checkpoint.verify(folder) == (older, {newer: f"{name} is missing"})
    (newer / name).write_bytes(content)
    assert checkpoint.verify(folder) == (newer, {})


@pytest.mark.parametrize("name", FILES)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(two_checkpoints, name):
    folder, config = two_checkpoints
    older, newer = checkpoint._all(folder)
    (newer / name).write_bytes((newer / name).read_bytes()[:-5])
    trainer = Trainer(ImageClassification(config), config)
    trainer.restore(folder)
    (note,) = trainer.notes
    assert trainer.updates_done == 2 and f"{newer} is damaged" in note and name in note
    names = lambda: sorted(path.name for path in older.parent.iterdir())  # noqa: E731
    assert names() == ["latest", "update-00000002", "update-00000004.damaged"]
    assert (older.parent / "latest").read_text() == "update-00000002\n"
    with RunLog(config, kept_updates=2) as log:
        engine.train(trainer, log)
    assert note in (folder / "train.log").read_text()
    assert names() == ["latest", "update-00000003", "update-00000004.damaged", "update-00000006"]
    assert (older.parent / "latest").read_text() == "update-00000006\n"


def test_a_run_without_a_whole_checkpoint_is_a_user_error_that_touches_nothing(two_checkpoints):
    folder, config = two_checkpoints
    older, newer = checkpoint._all(folder)
    (older / "manifest.json").unlink()  # as written before there were manifests
    (newer / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError, match="no checkpoint in .* is whole .*model.safetensors has 0 bytes.*manifest.json is missing"
    ):
        Trainer(ImageClassification(config), config).restore(folder)
    assert checkpoint._all(folder) == [older, newer]


def test_weights_that_are_not_finite_are_never_written(two_checkpoints):
    folder, config = two_checkpoints
    trainer = Trainer(ImageClassification(config), config)
    trainer.restore(folder)
    checkpoint.save_best(folder, trainer.task.model)
    before = (folder / "best.safetensors").read_bytes()
    trainer.step(trainer.read()[0])
    trainer.task.model.head.bias.set_value(np.full(10, np.inf, "float32"))
    for write in (lambda: trainer.save(folder), lambda: checkpoint.save_best(folder, trainer.task.model)):
        with pytest.raises(FloatingPointError, match="head.bias is not finite; last good checkpoint: .*update-00000004"):
            write()
    assert checkpoint.verify(folder)[0].name == "update-00000004" and (folder / "best.safetensors").read_bytes() == before


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


def test_a_checkpoints_model_and_average_are_weights_and_its_momentum_is_not(two_checkpoints, tmp_path):
    folder, config = two_checkpoints
    model, newest = ImageClassification(config).model, checkpoint.latest(folder)
    for name in ("model", "ema"):
        assert load_weights(model, newest / f"{name}.safetensors").names("loaded")
    momentum = newest / "momentum.safetensors"
    moved = momentum.rename(tmp_path / "moved.safetensors")  # the header tells
    message = "holds the momentum of a training run and no weights: give model.safetensors beside it"
    with pytest.raises(UserError, match=message):
        load_weights(model, moved)
    checkpoint.save_weights(checkpoint.model_arrays(model), momentum, update=4)  # as before the header told: its place tells
    with pytest.raises(UserError, match=message):
        load_weights(model, momentum)
    checkpoint.save_weights(checkpoint.model_arrays(model), tmp_path / "momentum.safetensors")  # a name alone tells nothing
    assert load_weights(model, tmp_path / "momentum.safetensors").names("loaded")


def test_damaged_or_absent_best_weights_are_a_user_error(trained):
    trainer, folder = trained
    checkpoint.save_best(folder, trainer.task.model)
    path = folder / "best.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="the best weights .* are damaged"):
        checkpoint.load_best(folder, trainer.task.model)
    with pytest.raises(UserError, match="sha256"):
        load_weights(trainer.task.model, path)
    path.unlink()
    with pytest.raises(UserError, match="cannot read the best weights"):
        checkpoint.load_best(folder, trainer.task.model)


def test_what_was_logged_after_the_last_checkpoint_is_logged_again(tiny_config, tmp_path):
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
    assert logged(tmp_path / "output" / "stopped") == logged(tmp_path / "output" / "straight")
