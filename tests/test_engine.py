import itertools
import json

import numpy as np
import paddle
import pytest
from gradient_worker import gradients
from safetensors import safe_open

from rdrop_paddle import UserError, engine, evaluate
from rdrop_paddle.checkpoint import model_arrays
from rdrop_paddle.config import BASE
from rdrop_paddle.engine import Trainer, _dropout_seed
from rdrop_paddle.loss import RDropLoss
from rdrop_paddle.runlog import RunLog
from rdrop_paddle.schedule import lr_at
from rdrop_paddle.vision.task import ImageClassification


def worst_difference(a, b):
    """The largest over all tensors of max|a - b| / max|b|."""
    return max(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max() for name in b)


@pytest.mark.launcher
def test_the_gradient_of_a_global_batch_depends_on_neither_micro_batch_nor_ranks(run_tool, tmp_path):
    names = [f"batchmean-{size}" for size in (8, 16, 32)]
    done = run_tool("tests/gradient_worker.py", tmp_path, *names, "sum-8", ranks=2)
    assert done.returncode == 0, done.stdout
    layouts = {(2, name): np.load(tmp_path / f"{name}.npz") for name in names}
    layouts |= {(1, size): gradients("batchmean", size) for size in (8, 16, 32)}
    reference = layouts.pop((1, 32))
    assert reference["kl"] > 0.01
    for layout, found in layouts.items():
        assert worst_difference(found, reference) < 1e-5, layout
    # trap 1: the official sum makes the KL's weight grow with the micro-batch
    summed = gradients("sum", 32)
    for found in (gradients("sum", 8), np.load(tmp_path / "sum-8.npz")):
        assert worst_difference(found, summed) > 0.1
        assert found["kl"] == pytest.approx(summed["kl"] / 4, rel=0.1)


def test_official_sum_is_batchmean_times_the_micro_batch():
    """alpha 0.3 summed over micro-batches of 32 is alpha 9.6 in batchmean, whatever the accumulation."""
    p, q = paddle.randn([2, 32, 10]).unbind(0)
    label = paddle.randint(0, 10, [32])
    assert RDropLoss(0.3, "sum")(p, q, label).item() == pytest.approx(RDropLoss(9.6, "batchmean")(p, q, label).item(), rel=1e-6)


def trainer_for(config):
    trainer = Trainer(ImageClassification(config), config)
    micro_batches, _ = trainer.read()
    return trainer, micro_batches


def test_one_update_is_sgd_with_the_schedules_rate_and_a_clipped_gradient(tiny_config, tmp_path):
    config = tiny_config("train.clip_norm=0.01", "train.lr=0.5")
    trainer, micro_batches = trainer_for(config)
    before = model_arrays(trainer.task.model)
    means = trainer.step(micro_batches, tmp_path)
    after = model_arrays(trainer.task.model)
    moved = np.sqrt(sum(np.square(after[name] - before[name]).sum() for name in before))
    assert means["grad_norm"] > 0.01  # before clipping
    assert moved == pytest.approx(0.01 * lr_at(1, steps=6, warmup_steps=2, peak=0.5), rel=1e-3)


def test_the_second_update_carries_momentum_and_weight_decay(tiny_config, tmp_path):
    overrides = ["train.clip_norm=null", "train.momentum=0.8", "train.weight_decay=0.1", "train.warmup_steps=0"]
    trainer, micro_batches = trainer_for(tiny_config(*overrides))
    weight, velocity = trainer.task.model.head.weight, 0.0
    for _ in range(2):
        lr, before = trainer.optimizer.get_lr(), weight.numpy()
        trainer.backward(micro_batches, trainer.updates_done + 1)
        velocity = 0.8 * velocity + weight.grad.numpy() + 0.1 * before
        trainer.optimizer.clear_grad()
        trainer.step(micro_batches, tmp_path)
        np.testing.assert_allclose(weight.numpy(), before - lr * velocity, atol=1e-7)


def test_a_gradient_below_the_limit_is_left_alone(tiny_config):
    gradients = []
    for clip_norm in ("null", 1000):
        paddle.seed(1)
        trainer, micro_batches = trainer_for(tiny_config(f"train.clip_norm={clip_norm}"))
        trainer.backward(micro_batches, 1)
        gradients.append([p.grad.numpy() for p in trainer.task.model.parameters()])
    assert all((a == b).all() for a, b in zip(*gradients))


def test_the_baseline_has_one_pass_and_no_kl(tiny_config):
    trainer, micro_batches = trainer_for(tiny_config("rdrop.passes=1", "rdrop.alpha=0"))
    means = trainer.backward(micro_batches, 1)
    assert means["kl"] == 0 and means["loss"] == means["ce"] > 0


def test_doubled_batch_without_kl_logs_the_kl_but_does_not_train_it(tiny_config):
    trainer, micro_batches = trainer_for(tiny_config("rdrop.alpha=0"))
    means = trainer.backward(micro_batches, 1)
    assert means["kl"] > 0 and means["loss"] == means["ce"]


def test_dropout_is_a_function_of_seed_update_and_rank(tiny_config):
    keys = list(itertools.product((0, 1), (1, 2, 3), (0, 1)))
    assert len({_dropout_seed(*key) for key in keys}) == len(keys)
    trainer, micro_batches = trainer_for(tiny_config("model.drop_rate=0.5"))
    losses = []
    for update in (1, 1, 2):
        losses.append(trainer.backward(micro_batches, update)["loss"])
        trainer.optimizer.clear_grad()
    assert losses[0] == losses[1] != losses[2]


def test_a_loss_that_is_not_finite_stops_before_anything_is_changed(tiny_config, tmp_path):
    trainer, micro_batches = trainer_for(tiny_config())
    trainer.task.model.head.bias.set_value(np.full(10, np.nan, "float32"))
    before = model_arrays(trainer.task.model)
    index = int(micro_batches[0][-1][0])
    with pytest.raises(FloatingPointError, match=rf"update 1: loss nan.*samples of this rank: \[{index}, .*none yet"):
        trainer.step(micro_batches, tmp_path)
    after = model_arrays(trainer.task.model)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_mixed_precision_without_a_gpu_is_a_clear_error(tiny_config):
    for level in ("O1", "O2"):
        config = tiny_config(f"train.amp={level}")
        with pytest.raises(UserError, match=f"train.amp is {level} but this is a CPU"):
            Trainer(ImageClassification(config), config)


def test_evaluation_drops_nothing_and_leaves_the_mode_as_it_was(tiny_config):
    task = ImageClassification(tiny_config("model.drop_rate=0.5"))
    task.model.train()
    first, second = evaluate(task, "test"), evaluate(task, "test")
    assert first == second and first["total"] == 719 and first["accuracy"] == first["correct"] / 719
    assert task.model.training
    task.model.eval()
    evaluate(task, "val")
    assert not task.model.training


def test_the_best_weights_by_the_held_out_part_are_kept_and_read_at_the_end(tiny_config, monkeypatch):
    scores = {"val": iter([0.2, 0.5, 0.4]), "test": iter([0.3])}
    evaluated = []

    def pretend(task, split, amp):
        evaluated.append((split, task.model.head.bias.numpy().tobytes()))
        return {"accuracy": next(scores[split])}

    monkeypatch.setattr(engine, "evaluate", pretend)
    config = tiny_config("train.eval_every=2")
    with RunLog(config) as log:
        assert engine.train(Trainer(ImageClassification(config), config), log) == {"accuracy": 0.3}
    (_, first), (_, second), (_, third), (split, final) = evaluated
    assert split == "test" and final == second and len({first, second, third}) == 3
    with safe_open(str(log.folder / "best.safetensors"), framework="numpy") as file:
        assert file.metadata() == {"format": "rdrop_paddle", "update": "4", "val_accuracy": "0.5"}


def test_without_a_held_out_part_the_last_weights_are_kept(tiny_config):
    config = tiny_config("data.val_fraction=0", "train.steps=3")
    with RunLog(config) as log:
        engine.train(Trainer(ImageClassification(config), config), log)
    with safe_open(str(log.folder / "best.safetensors"), framework="numpy") as file:
        assert file.metadata()["update"] == "3"


@pytest.mark.slow
@pytest.mark.launcher
def test_ranks_wait_for_each_other_longer_than_gloo_would(run_tool):
    done = run_tool("tests/waiting_worker.py", ranks=2)
    assert done.returncode == 0, done.stdout


@pytest.mark.launcher
def test_two_ranks_train_as_one_where_nothing_is_dropped(run_tool, tiny_overrides, tmp_path):
    """Without dropout the same config gives the same training on any number of ranks."""
    losses = {}
    for ranks in (0, 2):
        name = f"ranks{ranks}"
        overrides = [*tiny_overrides, "model.drop_rate=0", "rdrop.alpha=0", "train.steps=4", f"name={name}"]
        done = run_tool("train.py", "-c", BASE, "-o", *overrides, ranks=ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (tmp_path / "output" / name / "metrics.jsonl").read_text().splitlines()
        losses[ranks] = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[2], rel=1e-5)
