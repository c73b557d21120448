import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from rdrop_paddle.durability import checkpoint
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.training.update_figures import FIGURES, is_finite, peak_memory
from rdrop_paddle.vision.task import ImageClassification


def trainer_with_bad_updates(config, bad):
    """A trainer whose logits are not a number in the updates `bad`."""
    trainer = Trainer(ImageClassification(config), config)
    forward = trainer.task.forward

    def forward_or_break(model, batch, passes=1):
        logits, labels = forward(model, batch, passes)
        broken = passes > 1 and trainer.updates_done + 1 in bad
        return logits * (float("nan") if broken else 1.0), labels

    trainer.task.forward = forward_or_break
    return trainer


def tensors(trainer):
    """The bytes of all that an update moves, by name."""
    found = checkpoint.model_arrays(trainer.task.model) | {f"ema {k}": v for k, v in trainer.average.arrays().items()}
    for slot, arrays in trainer.optimizer_state.arrays().items():
        found |= {f"{slot} {k}": v for k, v in arrays.items()}
    return {name: array.tobytes() for name, array in found.items()}


OPTIMIZERS = pytest.mark.parametrize("optimizer", ["momentum", "adamw"])


@OPTIMIZERS
def test_an_update_that_is_not_finite_moves_nothing_and_the_others_as_ever(tiny_config, tmp_path, optimizer):
    overrides = ["train.skip_nonfinite=2", "train.ema_decay=0.9", "train.weight_decay=0.1", "train.warmup_steps=0"]
    trainer = trainer_with_bad_updates(tiny_config(*overrides, f"train.optimizer={optimizer}"), bad=(1, 4))
    trainer.task.model.head.bias.set_value(np.full(10, -0.0, "float32"))  # whose sign is a bit as any other
    weights = [checkpoint.model_arrays(trainer.task.model)["head.bias"].tobytes()]
    states, rates = [], []
    for _ in range(5):
        rates.append(trainer.optimizer.get_lr())
        trainer.step(trainer.read()[0])
        states.append(tensors(trainer))
        weights.append(states[-1]["head.bias"])
    assert weights[0] == weights[1] != weights[2]
    created = {name: value for name, value in states[0].items() if name.startswith(tuple(trainer.optimizer_state.slots))}
    initial = {"beta1_power": np.float32(0.9), "beta2_power": np.float32(0.999)}  # all others begin with zero
    assert created and all(set(np.frombuffer(v, "float32")) == {initial.get(k.split()[0], 0)} for k, v in created.items())
    assert states[2] == states[3]
    for earlier, later in ((0, 1), (1, 2), (3, 4)):
        assert all(states[earlier][name] != states[later][name] for name in states[0])
    assert len(set(rates)) == 5  # the schedule goes on
    assert trainer.fetch(tmp_path)["skipped"] == 2
    assert all(np.isfinite(np.frombuffer(value, "float32")).all() for value in states[-1].values())


@OPTIMIZERS
def test_after_first_updates_that_were_left_out_the_next_is_as_if_there_had_been_none(tiny_config, optimizer):
    config = tiny_config("train.skip_nonfinite=2", f"train.optimizer={optimizer}")
    paddle.seed(0)
    skipping = trainer_with_bad_updates(config, bad=(1, 2))
    for _ in range(3):
        skipping.step(skipping.read()[0])
    paddle.seed(0)
    beginning = Trainer(ImageClassification(config), config)
    beginning.updates_done, beginning.batches = 2, iter(beginning.task.batches("train", 3))
    beginning.schedule.step(2)
    beginning.config.train.skip_nonfinite = 0
    beginning.step(beginning.read()[0])
    assert tensors(skipping) == tensors(beginning)


@OPTIMIZERS
def test_skipping_that_never_happens_changes_nothing(tiny_config, tmp_path, optimizer):
    found = []
    for allowed in (0, 3):
        paddle.seed(0)
        config = tiny_config(f"train.skip_nonfinite={allowed}", "train.ema_decay=0.9", f"train.optimizer={optimizer}")
        trainer = Trainer(ImageClassification(config), config)
        for _ in range(3):
            trainer.step(trainer.read()[0])
        found.append(tensors(trainer))
        assert ("skipped" in trainer.fetch(tmp_path)) == (allowed > 0)
    assert found[0] == found[1]


def test_skipped_updates_are_counted_in_the_log_over_resumptions_and_one_too_many_stops(tiny_config):
    config = tiny_config("train.skip_nonfinite=2", "train.steps=9")
    trainer = trainer_with_bad_updates(config, bad=(2, 5, 7))
    with RunLog(config) as log, pytest.raises(FloatingPointError, match="update 7: loss nan.*checkpoint: .*update-00000006"):
        engine.train(trainer, log)
    trainer = trainer_with_bad_updates(config, bad=(8,))
    trainer.restore(log.folder)
    assert (trainer.updates_done, trainer.skipped) == (6, 2)
    with RunLog(config, kept_updates=6) as log, pytest.raises(FloatingPointError, match="update 8: loss nan"):
        engine.train(trainer, log)
    lines = (log.folder / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if "loss" in (record := json.loads(line, parse_constant=pytest.fail))]
    assert [record["skipped"] for record in records] == [0, 1, 1, 1, 2, 2, 2]
    assert [record["step"] for record in records if record["loss"] is None] == [2, 5]


def test_only_loss_and_gradient_are_watched_and_of_scaled_gradients_the_loss():
    finite = dict.fromkeys(FIGURES, 1.0)
    for scaled, watched in ((False, {"loss", "grad_norm"}), (True, {"loss"})):
        for value in (float("nan"), float("inf")):
            assert {name for name in FIGURES if not is_finite(finite | {name: value}, scaled)} == watched


def test_a_cpus_memory_is_the_most_that_was_resident():
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    assert peak_memory() == pytest.approx(int(status["VmHWM"].split()[0]) * 1024 / 1e9, rel=0.01)


def test_a_gpus_memory_is_what_paddle_allocated_there(monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "max_memory_allocated", lambda: 17_000_000_000)
    assert peak_memory() == 17.0
