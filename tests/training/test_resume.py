import json
from dataclasses import asdict

import pytest
from conftest import BASE, TINY, logged
from resume_worker import OPTIMIZERS, OVERRIDES, PLAIN, STEPS, differences, outcome, run

from rdrop_paddle import UserError, load_config
from rdrop_paddle.config import FREE, flatten
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.training.trainer import Trainer, can_recompute
from rdrop_paddle.vision.task import ImageClassification

SOME = [3, 4, 6]  # within an epoch, at an evaluation, at the end of an epoch
OTHERS = [update for update in range(1, STEPS + 1) if update not in SOME]


SLOTS = {"momentum": ["momentum"], "adamw": ["first_moment", "second_moment", "beta1_power", "beta2_power"]}


@pytest.mark.parametrize(
    "optimizer, workers, updates",
    [
        ("momentum", 0, range(1, STEPS + 1)),
        ("adamw", 0, SOME),
        pytest.param("adamw", 0, OTHERS, marks=pytest.mark.slow),
        ("momentum", 2, SOME),
        pytest.param("momentum", 2, OTHERS, marks=pytest.mark.slow),
    ],
    ids=["every update", "adamw", "adamw, the other updates", "two workers", "two workers, the other updates"],
)
def test_a_run_resumed_after_any_update_equals_one_left_alone_to_the_bit(tmp_path, optimizer, workers, updates):
    found = differences(tmp_path, updates, OPTIMIZERS[optimizer], f"data.workers={workers}")
    assert found == {update: [] for update in updates}
    # the comparison saw something: momentum, averages that are not the weights, several evaluations
    last = checkpoint.latest(tmp_path / "straight")
    model, ema, *slots = (checkpoint.load_arrays(last, name) for name in ("model", "ema", *SLOTS[optimizer]))
    assert all(model.keys() == arrays.keys() for arrays in (ema, *slots))
    assert all(all(arrays[name].any() for arrays in slots) and (model[name] != ema[name]).any() for name in model)
    records = logged(tmp_path / "straight")
    assert [record["step"] for record in records if record.get("split") == "val"] == [4, 8, 12]
    assert len([record for record in records if "loss" in record]) == STEPS


@pytest.mark.launcher
@pytest.mark.parametrize(
    "optimizer, updates",
    [
        ("momentum", SOME),
        ("adamw", [4]),
        pytest.param("momentum", OTHERS, marks=pytest.mark.slow),
        pytest.param("adamw", [3, 6, *OTHERS], marks=pytest.mark.slow),
    ],
    ids=["some", "adamw", "the other updates", "adamw, the other updates"],
)
def test_so_does_one_on_two_ranks_and_another_number_of_ranks_goes_on_too(run_tool, tmp_path, optimizer, updates):
    done = run_tool("tests/training/resume_worker.py", tmp_path, optimizer, *updates, ranks=2)
    assert done.returncode == 0, done.stdout
    found = json.loads((tmp_path / "differences.json").read_text())
    assert found == {str(update): [] for update in updates}

    overrides = [*OPTIMIZERS[optimizer], *PLAIN, "train.micro_batch_size=64"]
    trainer = run(tmp_path, "plain-after6", *overrides, resume=True)  # on one rank
    masks = "the samples and the mathematics are the same, but dropout masks differ from here on"
    assert trainer.notes == [f"ranks was 2 and is 1: {masks}", f"train.micro_batch_size was 32 and is 64: {masks}"]
    assert "ranks was 2 and is 1" in (tmp_path / "plain-after6" / "train.log").read_text()
    losses, expected = ([r["loss"] for r in logged(tmp_path / name) if "loss" in r] for name in ("plain-after6", "plain"))
    assert len(losses) == STEPS and losses == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(run folder, overrides) of a run with a checkpoint after update 2."""
    folder = tmp_path_factory.mktemp("saved")
    overrides = [*TINY, *OVERRIDES, f"output={folder.parent}", f"name={folder.name}"]
    config = load_config(BASE, overrides)
    trainer = Trainer(ImageClassification(config), config)
    for _ in range(2):
        trainer.step(trainer.read()[0])
    trainer.save(folder)
    return folder, overrides


@pytest.mark.parametrize(
    "changes, refused",
    [
        (["train.lr=0.2"], ["train.lr was 0.3 and is 0.2"]),
        (["train.optimizer=adamw"], ["train.optimizer was momentum and is adamw"]),
        (["train.betas=[0.9,0.98]"], ["train.betas was [0.9, 0.999] and is [0.9, 0.98]"]),
        (["train.steps=13", "rdrop.alpha=1"], ["train.steps was 12 and is 13", "rdrop.alpha was 9.6 and is 1.0"]),
        (["train.batch_size=32"], ["train.batch_size was 64 and is 32"]),
        (["train.ema_decay=null"], ["train.ema_decay was 0.9 and is None"]),
        (["model.depth=3"], ["model.depth was 2 and is 3"]),
        (["train.seed=1"], ["train.seed was 0 and is 1"]),
        (["data.val_fraction=0.3"], ["data.val_fraction was 0.2 and is 0.3", "training_data.train was"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_config_that_changes_the_result_is_refused_by_its_keys(saved, changes, refused):
    folder, overrides = saved
    config = load_config(BASE, [*overrides, *changes])
    with pytest.raises(UserError, match="update-00000002 was made with other settings or data") as error:
        Trainer(ImageClassification(config), config).restore(folder)
    assert all(text in str(error.value) for text in refused) and "\n" not in str(error.value)


def test_what_does_not_change_the_result_may_be_changed(saved):
    folder, overrides = saved
    changes = ["name=elsewhere", "data.workers=1", "train.log_every=7", "train.save_every=5", "eval.batch_size=8"]
    changes += ["train.skip_nonfinite=2", *(["train.recompute=true"] if can_recompute() else [])]
    config = load_config(BASE, [*overrides, *changes])
    trainer = Trainer(ImageClassification(config), config)
    trainer.restore(folder)
    assert trainer.updates_done == 2
    if can_recompute():
        assert trainer.notes == ["train.recompute was False and is True: the result is the same up to rounding"]


def test_a_run_whose_schedule_knows_no_end_may_go_on_for_longer(tmp_path):
    adamw = OPTIMIZERS["adamw"]
    run(tmp_path, "straight", *adamw)
    run(tmp_path, "longer", *adamw, "train.steps=8")
    run(tmp_path, "longer", *adamw, resume=True)
    assert outcome(tmp_path / "longer") == outcome(tmp_path / "straight")
    with pytest.raises(UserError, match="is of update 12, and train.steps is 8: give that many or more"):
        run(tmp_path, "longer", *adamw, "train.steps=8", resume=True)


def test_the_micro_batch_may_not_be_changed_under_a_summed_kl(saved):
    folder, overrides = saved
    configs = [load_config(BASE, [*overrides, "rdrop.reduction=sum", *more]) for more in ([], ["train.micro_batch_size=8"])]
    before, after = ({"config": asdict(config)} for config in configs)
    with pytest.raises(UserError, match=r"train.micro_batch_size was \d+ and is 8"):
        checkpoint.compare(folder, before, after, free=configs[1].changeable())


def test_other_training_data_are_refused(saved):
    folder, overrides = saved
    config = load_config(BASE, overrides)
    task = ImageClassification(config)
    images = task.images("train")
    images.source[images.rows[5], 3, 3, 1] += 1  # one of 76,800 numbers
    with pytest.raises(UserError, match="training_data.train was .* and is .*"):
        Trainer(task, config).restore(folder)


def test_every_free_key_is_one_of_the_configuration():
    assert FREE.keys() < flatten(asdict(load_config(BASE))).keys()
