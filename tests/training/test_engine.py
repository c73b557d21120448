import contextlib
import dataclasses
import itertools
import json
import re

import numpy as np
import paddle
import pytest
from conftest import BASE, recomputes
from gradient_worker import gradients
from safetensors import safe_open
from safetensors.numpy import load_file

from rdrop_paddle import UserError, evaluate, layers
from rdrop_paddle.config import Measure, check_ranks
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.durability.checkpoint import model_arrays
from rdrop_paddle.loss import RDropLoss
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.schedule import cosine
from rdrop_paddle.training.sharding import even_shares
from rdrop_paddle.training.trainer import Trainer, _dropout_seed, can_recompute
from rdrop_paddle.training.update_figures import FIGURES
from rdrop_paddle.vision.config import ImageClassificationConfig
from rdrop_paddle.vision.task import ImageClassification


def worst_difference(a, b):
    """The largest over all tensors of max|a - b| / max|b|."""
    return max(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max() for name in b)


@pytest.mark.launcher
def test_the_gradient_of_a_global_batch_depends_on_neither_micro_batch_nor_ranks(run_tool, tmp_path):
    names = [*(f"batchmean-{size}" for size in (8, 16, 32)), *(["batchmean-16-recompute"] if can_recompute() else [])]
    done = run_tool("tests/training/gradient_worker.py", tmp_path, *names, "sum-8", ranks=2)
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


def figures_of(trainer, micro_batches, update=1):
    return dict(zip(FIGURES, trainer.backward(micro_batches, update).tolist()))


def test_the_divergences_target_is_a_constant_where_the_config_says_so(tiny_config):
    """The values stay and the gradient does not."""
    found = []
    for override in ("rdrop.stop_target_gradient=false", "rdrop.stop_target_gradient=true"):
        paddle.seed(0)
        trainer, micro_batches = trainer_for(tiny_config("model.drop_rate=0.3", "rdrop.alpha=5", override))
        found.append(figures_of(trainer, micro_batches))
    norm, other_norm = (figures.pop("grad_norm") for figures in found)
    assert found[0] == found[1] and found[0]["kl"] > 0
    assert abs(norm - other_norm) > 0.01 * norm


def test_one_update_is_sgd_with_the_schedules_rate_and_a_clipped_gradient(tiny_config, tmp_path):
    config = tiny_config("train.clip_norm=0.01", "train.lr=0.5")
    trainer, micro_batches = trainer_for(config)
    before = model_arrays(trainer.task.model)
    trainer.step(micro_batches)
    means = trainer.fetch(tmp_path)
    after = model_arrays(trainer.task.model)
    moved = np.sqrt(sum(np.square(after[name] - before[name]).sum() for name in before))
    assert means["grad_norm"] > 0.01  # before clipping
    assert moved == pytest.approx(0.01 * cosine(1, steps=6, warmup_steps=2, peak=0.5), rel=1e-3)


def test_the_second_update_carries_momentum_and_weight_decay(tiny_config):
    overrides = ["train.clip_norm=null", "train.momentum=0.8", "train.weight_decay=0.1", "train.warmup_steps=0"]
    trainer, micro_batches = trainer_for(tiny_config(*overrides))
    weight, velocity = trainer.task.model.head.weight, 0.0
    for _ in range(2):
        lr, before = trainer.optimizer.get_lr(), weight.numpy()
        trainer.backward(micro_batches, trainer.updates_done + 1)
        velocity = 0.8 * velocity + weight.grad.numpy() + 0.1 * before
        trainer.optimizer.clear_grad()
        trainer.step(micro_batches)
        np.testing.assert_allclose(weight.numpy(), before - lr * velocity, atol=1e-7)


def test_adamws_updates_are_the_published_ones_with_decoupled_decay(tiny_config):
    """arXiv 1711.05101, algorithm 2: the decay is of the weight and by the learning rate alone, not in the gradient."""
    settings = [
        "train.optimizer=adamw",
        "train.betas=[0.8,0.95]",
        "train.epsilon=1e-3",
        "train.weight_decay=0.1",
        "train.lr=0.05",
    ]
    trainer, micro_batches = trainer_for(tiny_config(*settings, "train.clip_norm=null", "train.schedule=linear"))
    weight, first, second = trainer.task.model.head.weight, 0.0, 0.0
    for update in (1, 2, 3):
        lr, before = trainer.optimizer.get_lr(), weight.numpy().astype("float64")
        trainer.backward(micro_batches, update)
        gradient = weight.grad.numpy().astype("float64")
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        direction = first / (1 - 0.8**update) / (np.sqrt(second / (1 - 0.95**update)) + 1e-3)
        trainer.optimizer.clear_grad()
        trainer.step(micro_batches)
        np.testing.assert_allclose(weight.numpy(), before - lr * 0.1 * before - lr * direction, atol=1e-6)
        assert np.abs(direction).max() > 0.5 and lr >= 0.025


@pytest.mark.parametrize("passes", [["rdrop.passes=1", "rdrop.alpha=0"], ["rdrop.passes=2", "rdrop.alpha=0"]])
def test_labels_are_smoothed_by_the_configs_share_in_both_losses(tiny_config, passes):
    found = []
    for share in (0.0, 0.2):
        paddle.seed(0)
        trainer, micro_batches = trainer_for(tiny_config(*passes, "model.drop_rate=0", f"train.label_smoothing={share}"))
        trainer.task.model.head.weight.set_value(np.random.default_rng(0).normal(0, 1, [16, 10]).astype("float32"))
        found.append(figures_of(trainer, micro_batches)["ce"])
    nll, smoothed = [], []
    with paddle.no_grad():
        for batch in micro_batches:
            logits, labels = trainer.task.forward(trainer.task.model, batch)
            log_p = paddle.nn.functional.log_softmax(logits.astype("float64")).numpy()
            nll.append(-log_p[range(len(log_p)), labels.numpy()].mean())
            smoothed.append(0.8 * nll[-1] - 0.2 * log_p.mean())
    assert found == pytest.approx([np.mean(nll), np.mean(smoothed)], rel=1e-5) and abs(found[0] - found[1]) > 1e-3


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
    means = figures_of(trainer, micro_batches)
    assert means["kl"] == 0 and means["loss"] == means["ce"] > 0


def test_doubled_batch_without_kl_logs_the_kl_but_does_not_train_it(tiny_config):
    trainer, micro_batches = trainer_for(tiny_config("rdrop.alpha=0"))
    means = figures_of(trainer, micro_batches)
    assert means["kl"] > 0 and means["loss"] == means["ce"]


def test_dropout_is_a_function_of_seed_update_and_rank(tiny_config):
    keys = list(itertools.product((0, 1), (1, 2, 3), (0, 1)))
    assert len({_dropout_seed(*key) for key in keys}) == len(keys)
    trainer, micro_batches = trainer_for(tiny_config("model.drop_rate=0.5"))
    losses = []
    for update in (1, 1, 2):
        losses.append(figures_of(trainer, micro_batches, update)["loss"])
        trainer.optimizer.clear_grad()
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("period", ["log_every", "eval_every", "save_every"])
def test_a_run_that_diverges_names_its_first_bad_update_and_saves_nothing_of_it(tiny_config, monkeypatch, period):
    """Update 3 is not finite and the next look is after update 4, whichever reason there is to look."""
    periods = {"log_every": 100, "eval_every": 100, "save_every": 100, period: 2}
    config = tiny_config("train.steps=12", *(f"train.{name}={value}" for name, value in periods.items()))
    trainer = Trainer(ImageClassification(config), config)
    step, indices = trainer.step, []

    def step_and_break(micro_batches):
        indices.append(int(micro_batches[0][-1][0]))
        if trainer.updates_done == 2:
            trainer.save(log.folder)
            trainer.task.model.head.bias.set_value(np.full(10, np.nan, "float32"))
        step(micro_batches)

    monkeypatch.setattr(trainer, "step", step_and_break)
    with RunLog(config) as log, pytest.raises(FloatingPointError) as failure:
        engine.train(trainer, log)
    last = checkpoint.latest(log.folder)
    expected = rf"update 3: loss nan.*samples of this rank: \[{indices[2]}, .*checkpoint: {re.escape(str(last))}"
    assert trainer.updates_done == 4 and last.name == "update-00000002" and re.match(expected, str(failure.value))
    kept = [last / "model.safetensors", *log.folder.glob("best.safetensors")]
    assert all(np.isfinite(array).all() for path in kept for array in load_file(path).values())


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_an_update_never_waits_for_the_device(tiny_config, monkeypatch, tmp_path, optimizer):
    """A tensor that Python looks into has to be computed and transferred first, which would leave a GPU idle."""
    overrides = ["train.weight_decay=0.1", "model.drop_rate=0.1", "train.ema_decay=0.9", "train.skip_nonfinite=1"]
    trainer, micro_batches = trainer_for(tiny_config(*overrides, f"train.optimizer={optimizer}"))
    monkeypatch.setattr(layers, "on_cpu", lambda x: False)  # what a GPU runs
    looks = []

    def spy(name):
        look = getattr(paddle.Tensor, name)

        def counted(*arguments, **options):
            looks.append(name)
            return look(*arguments, **options)

        monkeypatch.setattr(paddle.Tensor, name, counted)

    for name in ("item", "numpy", "tolist", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__", "__format__"):
        spy(name)
    for _ in range(3):
        trainer.step(micro_batches)
    assert looks == []
    trainer.fetch(tmp_path)
    assert looks.count("tolist") == 1 and trainer.pending == []


@pytest.mark.parametrize(
    "override, forwards",
    [("rdrop.shared_blocks=1", [32, 64]), pytest.param("train.recompute=true", [64, 64] * 2, marks=recomputes)],
)
def test_training_takes_cheaper_ways_that_evaluation_does_not_know(tiny_config, override, forwards):
    """Samples in each forward of the two blocks for one micro-batch of 32."""
    trainer, micro_batches = trainer_for(tiny_config(override, "train.micro_batch_size=32"))
    seen = []
    for block in trainer.task.model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    trainer.backward(micro_batches[:1], 1)
    assert seen == forwards
    seen.clear()
    evaluate(trainer.task, "val")
    assert len(seen) == 2 * len(list(trainer.task.batches("val")))


def test_recompute_where_paddle_cannot_is_an_error(tiny_config, monkeypatch):
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    with pytest.raises(UserError, match="train.recompute needs Paddle 3 on a CPU, and this is 2.6.2"):
        trainer_for(tiny_config("train.recompute=true"))
    trainer_for(tiny_config())


def test_sharing_every_block_is_an_error(tiny_config):
    with pytest.raises(UserError, match="rdrop.shared_blocks 2 leaves none of the model's 2 blocks .*at most 1"):
        ImageClassification(tiny_config("rdrop.shared_blocks=2"))


def test_mixed_precision_without_a_gpu_is_a_clear_error(tiny_config):
    for level in ("O1", "O2"):
        config = tiny_config(f"train.amp={level}")
        with pytest.raises(UserError, match=f"train.amp is {level} but this is a CPU"):
            Trainer(ImageClassification(config), config)


class FixedScaler:
    """Stands in for Paddle's GradScaler, which does nothing on a CPU."""

    def __init__(self, init_loss_scaling=2.0**16):
        self.factor, self.scaled = init_loss_scaling, []

    def scale(self, loss):
        self.scaled.append((loss * self.factor).item())
        return loss * self.factor

    def unscale_(self, optimizer):
        for parameter in optimizer._parameter_list:
            parameter.grad.scale_(1 / self.factor)

    def step(self, optimizer):
        optimizer.step()

    def update(self):
        pass


@pytest.mark.parametrize("size", [4, 32])
def test_float16s_scaling_begins_at_65536_times_a_mean_and_leaves_the_gradient_alone(tiny_config, monkeypatch, size):
    monkeypatch.setattr(paddle.amp, "GradScaler", FixedScaler)
    found = []
    for scales in (False, True):
        paddle.seed(0)
        trainer, micro_batches = trainer_for(tiny_config(f"train.micro_batch_size={size}"))
        trainer.scales = scales
        trainer.step(micro_batches)
        found.append((trainer.pending[0].figures.numpy(), model_arrays(trainer.task.model)))
    (plain, weights), (figures, after_scaling) = found
    np.testing.assert_allclose(figures, plain, rtol=1e-6)
    assert worst_difference(after_scaling, weights) < 1e-6
    assert len(trainer.scaler.scaled) == len(micro_batches)
    assert trainer.scaler.scaled[0] == pytest.approx(2**16 * plain[FIGURES.index("loss")], rel=0.3)


def test_evaluation_drops_nothing_and_leaves_the_mode_as_it_was(tiny_config):
    task = ImageClassification(tiny_config("model.drop_rate=0.5"))
    task.model.train()
    first, second = evaluate(task, "test"), evaluate(task, "test")
    assert first == second and first["total"] == 719 and first["accuracy"] == first["correct"] / 719
    assert task.model.training
    task.model.eval()
    evaluate(task, "val")
    assert not task.model.training


@pytest.mark.parametrize("higher_is_better, values", [(True, [0.2, 0.5, 0.4]), (False, [0.7, 0.5, 0.6])])
def test_the_best_weights_by_the_held_out_part_are_kept_and_read_at_the_end(tiny_config, monkeypatch, higher_is_better, values):
    monkeypatch.setattr(ImageClassificationConfig, "measure", Measure("accuracy", higher_is_better))
    monkeypatch.setattr(ImageClassification, "in_words", lambda task, score: str(score))
    scores = {"val": iter(values), "test": iter([0.3])}
    evaluated = []

    def pretend(task, split, amp, interruption, selecting=False):
        assert selecting == (split == "val")
        evaluated.append((split, task.model.head.bias.numpy().tobytes()))
        return {"accuracy": next(scores[split])}

    monkeypatch.setattr(engine, "evaluate", pretend)
    config = tiny_config("train.eval_every=2")
    with RunLog(config) as log:
        assert engine.train(Trainer(ImageClassification(config), config), log) == {"accuracy": 0.3}
    (_, first), (_, second), (_, third), (split, final) = evaluated
    assert split == "test" and final == second and len({first, second, third}) == 3
    with safe_open(str(log.folder / "best.safetensors"), framework="numpy") as file:
        belongings = {name: (log.folder / f"{name}.json").read_text() for name in ("classes", "model")}
        header = file.metadata()
        assert {name: json.loads(header.pop(name)) for name in belongings} == {k: json.loads(v) for k, v in belongings.items()}
        assert header == {"format": "rdrop_paddle", "update": "4", "val_accuracy": "0.5"}


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_the_final_evaluation_is_in_float32_after_training_in_16_bits(tiny_config, monkeypatch, level):
    evaluated = []

    def pretend(task, split, amp, interruption, selecting=False):
        assert selecting == (split == "val")
        evaluated.append((split, amp, task.model.head.weight.dtype))
        if level == "O2" and split == "val":
            task.model.to(dtype="bfloat16")  # which a CPU cannot train; best.safetensors has float32
        return {"accuracy": 0.5, "correct": 1, "total": 2}

    monkeypatch.setattr(engine, "evaluate", pretend)
    config = tiny_config("train.steps=3")
    trainer = Trainer(ImageClassification(config), config)
    trainer.amp = dict(enable=False, dtype="bfloat16", level=level)
    with RunLog(config) as log:
        engine.train(trainer, log)
    assert evaluated == [("val", trainer.amp, paddle.float32), ("test", None, paddle.float32)]


def test_o2_on_several_ranks_that_accumulate_is_a_user_error(tiny_config):
    accumulating = tiny_config("train.amp=O2").train  # 64 in micro-batches of 32
    with pytest.raises(UserError, match="train.amp is O2 and each of 2 ranks has 2 micro-batches an update"):
        check_ranks(tiny_config("train.amp=O2", "train.micro_batch_size=16").train, 2)
    check_ranks(accumulating, 1)
    check_ranks(accumulating, 2)  # a micro-batch each
    check_ranks(tiny_config("train.amp=O1", "train.micro_batch_size=16").train, 2)


def test_sharded_gradients_of_micro_batches_that_ranks_cannot_share_evenly_are_a_user_error(tiny_config):
    train = dataclasses.replace(tiny_config("train.sharding=2").train, accumulation=3)
    with pytest.raises(UserError, match="2 ranks cannot share train.accumulation 3 evenly: .*train.accumulation=4"):
        check_ranks(train, 2)
    check_ranks(train, 3)
    check_ranks(dataclasses.replace(train, sharding=1), 2)


def test_without_a_held_out_part_the_last_weights_are_kept(tiny_config):
    config = tiny_config("data.val_fraction=0", "train.steps=3")
    with RunLog(config) as log:
        engine.train(Trainer(ImageClassification(config), config), log)
    with safe_open(str(log.folder / "best.safetensors"), framework="numpy") as file:
        assert file.metadata()["update"] == "3"


def test_ranks_exchange_their_gradients_once_an_update(tiny_config):
    trainer, _ = trainer_for(tiny_config("train.micro_batch_size=16"))
    in_turn = []

    @contextlib.contextmanager
    def no_sync():
        in_turn.append("no_sync")
        yield

    trainer.data_parallel, trainer.model.no_sync = True, no_sync  # as with DataParallel
    trainer.model.register_forward_pre_hook(lambda *_: in_turn.append("forward"))
    trainer.step(trainer.read()[0])
    assert in_turn == ["no_sync", "forward"] * 3 + ["forward"]


@pytest.mark.launcher
def test_sharding_shares_out_memory_and_changes_neither_training_nor_checkpoints(run_tool, tmp_path):
    """With clipping, weight decay and accumulation; each stage also goes on from the checkpoint of another."""
    done = run_tool("tests/training/sharding_worker.py", tmp_path, ranks=2)
    assert done.returncode == 0, done.stdout
    assert_sharded_alike(tmp_path / "momentum", ["momentum"], copies=1)
    assert_sharded_alike(tmp_path / "adamw", ["first_moment", "second_moment", "beta1_power", "beta2_power"], copies=2)


def assert_sharded_alike(folder, slots, copies):
    """The stages of an optimizer that keeps `slots`, `copies` of them as large as the parameters."""
    runs = {stage: json.loads((folder / f"{stage}.json").read_text()) for stage in (0, 1, 2)}
    assert min(figures["grad_norm"] for figures in runs[0]["figures"]) > 0.1  # clipping is at work
    every = runs[0]["gradient"][0]
    for stage, run in runs.items():
        for kind, shared_from, held in (("state", 1, copies * every), ("gradient", 2, every)):
            if stage < shared_from:
                assert run[kind] == [held, held], (stage, kind)
            else:
                assert sum(run[kind]) == held < 2.1 * min(run[kind]), (stage, kind)
        for found, expected in zip(run["figures"], runs[0]["figures"]):
            assert found == pytest.approx(expected, rel=1e-5), stage
        for update, name in itertools.product((3, 4), ("model", *slots)):
            path = f"checkpoints/update-{update:08d}/{name}.safetensors"
            found, expected = (load_file(folder / str(s) / path) for s in (stage, 0))
            assert worst_difference(found, expected) < (1e-5 if name == "model" else 1e-4), (stage, path)
    assert runs[1]["figures"][:3] == runs[0]["figures"][:3]  # DataParallel's gradients in either


def test_parameters_are_shared_out_evenly():
    assert even_shares([1, 6, 2, 3], 2) == [1, 0, 1, 1]
    assert even_shares([5, 5, 5], 1) == [0, 0, 0]


def test_sharding_over_one_rank_is_a_user_error(tiny_config):
    config = tiny_config("train.sharding=1")
    with pytest.raises(UserError, match="train.sharding is 1 but there is one rank only"):
        Trainer(ImageClassification(config), config)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.sharding=1", "train.amp=O1", "train.amp_dtype=float16"], "train.sharding and float16"),
        (["train.sharding=2", "train.amp=O2"], "train.sharding is 2 and train.amp O2"),
        (["train.sharding=3"], "train.sharding is 3: give one of 0, 1, 2"),
    ],
)
def test_what_cannot_be_sharded_is_a_user_error(tiny_config, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny_config(*overrides)


@pytest.mark.slow
@pytest.mark.launcher
def test_ranks_wait_for_each_other_longer_than_gloo_would(run_tool):
    done = run_tool("tests/training/waiting_worker.py", ranks=2)
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
