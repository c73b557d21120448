"""Training and evaluation of a task; knows updates, ranks and the loss, not images.

A task has `model`, `size(split)`, `batches(split, first_update)`, `forward(model, batch, passes)` -> (logits, labels, pad mask
or None), `counts(logits, labels, pad_mask)` -> int64 [len(count_names)], `score(counts)` -> dict whose first value is the
higher, and `data_state(updates)` -> dict of JSON values that a checkpoint knows its data by; the last tensor of a batch
holds the indices of its samples. See vision/task.py.
"""

import contextlib
import itertools
import time
from dataclasses import asdict

import numpy as np
import paddle

from . import checkpoint, ranks
from .config import accumulation, check_ranks
from .console import reported, say
from .ema import WeightAverage
from .errors import UserError
from .figures import Clock, Pending, describe_failure, fetch_all, is_finite, move_if_finite
from .inference import for_evaluation
from .interruption import Interruption
from .loss import RDropLoss, cross_entropy
from .schedule import WarmupCosine
from .sharding import Shards


def train(trainer, log, interruption=None):
    """Train from where `trainer` stands to `train.steps`, with checkpoints and evaluations in the run folder of `log`.

    The best weights by the held-out part (the last ones when there is none) are saved as best.safetensors; at the end
    they are loaded and `eval.split` is read once. Returns its score, or None when `interruption` ended training: then there
    is a checkpoint of the last update.

    Raises:
        FloatingPointError: more losses or gradients that are not finite than may be skipped, before anything of it is saved.
        UserError: the disk is full, or the run folder read-only.
    """
    config, clock = trainer.config, Clock()
    steps = config.train.steps
    interruption = interruption or Interruption()
    for note in trainer.notes:
        log.message(note)
    say("training begins; the first update takes longest")

    def due(period):
        return trainer.updates_done % period == 0 or trainer.updates_done == steps

    while True:
        # an evaluation comes after the checkpoint of its update: one that was cut short is made up for on resuming from there
        if trainer.updates_done and due(config.train.eval_every):
            with trainer.average.in_use():
                finished = _keep_best(trainer, log, interruption)
            if not finished:
                log.sync()
                trainer.save(log.folder)
                return _say_stopped(trainer, log, interruption)
            clock.restart()
        if trainer.updates_done == steps:
            break
        lr = trainer.optimizer.get_lr()
        micro_batches, reading = trainer.read()
        ranks.progress.stage += 1
        trainer.step(micro_batches)
        clock.add(reading)
        log.progress(trainer.updates_done)
        stops = interruption.ends_training()
        logs, evaluates, saves = map(due, (config.train.log_every, config.train.eval_every, config.train.save_every))
        if logs or evaluates or saves or stops:
            means = trainer.fetch(log.folder)
        if logs:
            log.training(trainer.updates_done, lr=lr, **means, **clock.lap(config.train.batch_size))
        if saves or stops:
            log.sync()
            trainer.save(log.folder)
            clock.restart()
        if stops:
            return _say_stopped(trainer, log, interruption)
    checkpoint.load_best(log.folder, trainer.task.model)
    score = evaluate(trainer.task, config.eval.split, trainer.amp, interruption)
    if score is None:
        return _say_stopped(trainer, log, interruption)
    log.evaluation(steps, config.eval.split, score, final=True)
    return score


def evaluate(task, split, amp=None, interruption=None):
    """The score of `task.model` on a split, for example {"accuracy", "correct", "total"}, the same on every rank.

    Each example is counted once and the integer counts are summed over the ranks. `amp` holds arguments of
    `paddle.amp.auto_cast`; the default is full precision. None when `interruption` has ended it on any rank.
    """
    was_training = task.model.training
    task.model.eval()
    model = for_evaluation(task.model, task.size(split))
    counts, interrupted = paddle.zeros([len(task.count_names)], dtype="int64"), False
    with paddle.no_grad(), paddle.amp.auto_cast(**(amp or {"enable": False})):
        for batch in task.batches(split):
            interrupted = interruption is not None and interruption.requested()
            if interrupted:
                break
            counts += task.counts(*task.forward(model, batch))
            ranks.progress.signs += 1
    if was_training:
        task.model.train()
    ranks.wait_for_all()  # one of them may have had a batch more
    *counts, interrupted = ranks.sum_over_all(paddle.concat([counts, paddle.to_tensor([int(interrupted)])])).numpy()
    return None if interrupted else task.score(counts)


class Trainer:
    """What one update needs: model, criterion, optimizer, learning rate, precision; and how far training has come.

    Raises:
        UserError: a batch size that does not divide or exceeds the training set, sharding over one rank, or mixed
            precision without a GPU.
    """

    def __init__(self, task, config):
        self.task = task
        self.config = config
        self.updates_done = 0
        self.best = None  # the best score on the held-out part so far
        self.pending = []  # updates that `fetch` has not looked at
        self.skipped = 0  # updates so far that were not finite
        self.notes = []  # for the log, of how it was resumed
        self.rank, self.ranks = ranks.rank(), ranks.count()
        check_ranks(config.train, self.ranks)
        self.accumulation = accumulation(config.train, self.ranks)
        self.criterion = RDropLoss(alpha=config.rdrop.alpha, reduction=config.rdrop.reduction)
        train_config = config.train
        self.schedule = WarmupCosine(steps=train_config.steps, warmup_steps=train_config.warmup_steps, peak=train_config.lr)
        self.shards = Shards(task.model.parameters(), train_config.sharding)
        self.optimizer = paddle.optimizer.Momentum(
            learning_rate=self.schedule,
            momentum=train_config.momentum,
            parameters=self.shards.own,
            weight_decay=train_config.weight_decay or None,
        )
        self._set_precision(train_config)
        self.batches = iter(task.batches("train"))
        ranks.wait_for_all()  # reading the data may take one of them longer
        self.averages = self.ranks > 1 and self.shards.stage < 2  # DataParallel does, over the ranks; Shards adds up
        self.model = paddle.DataParallel(task.model) if self.averages else task.model
        self.shards.exchange()
        self.average = WeightAverage(task.model, train_config.ema_decay)
        task.model.train()

    def _set_precision(self, train_config):
        self.amp = dict(enable=train_config.amp != "off", dtype=train_config.amp_dtype)
        self.scaler = None
        if not self.amp["enable"]:
            return
        if paddle.get_device() == "cpu":
            raise UserError(f"train.amp is {train_config.amp} but this is a CPU, which computes in float32 only: train.amp=off")
        supported = {"bfloat16": paddle.amp.is_bfloat16_supported, "float16": paddle.amp.is_float16_supported}
        if not supported[train_config.amp_dtype]():  # Paddle would only warn and train in float32
            raise UserError(f"this device does not compute in {train_config.amp_dtype}: choose another train.amp_dtype")
        self.amp["level"] = train_config.amp
        if train_config.amp == "O2":
            self.task.model, self.optimizer = paddle.amp.decorate(
                self.task.model, self.optimizer, level="O2", dtype=train_config.amp_dtype, master_grad=True
            )
        if train_config.amp_dtype == "float16":
            self.scaler = paddle.amp.GradScaler()

    def read(self):
        """The micro-batches of the next update, and the seconds spent waiting for them."""
        start = time.perf_counter()
        return list(itertools.islice(self.batches, self.accumulation)), time.perf_counter() - start

    def step(self, micro_batches):
        """One update, without waiting for the device; `fetch` tells later how it went."""
        update = self.updates_done + 1
        figures = self.backward(micro_batches, update)
        self.pending.append(Pending(update, figures, [batch[-1] for batch in micro_batches]))
        if self.config.train.skip_nonfinite:
            move_if_finite(figures, self._move, self._moving)
        else:
            self._move()
        self.task.model.clear_gradients()
        self.schedule.step()
        self.updates_done = update

    def _move(self):
        """Move the weights and what follows them, by the gradients."""
        if self.scaler:
            self.scaler.step(self.optimizer)  # waits: Paddle reads on the host whether the gradient overflowed
            self.scaler.update()
        else:
            self.optimizer.step()
        self.shards.exchange()
        self.average.update()

    def _moving(self):
        """{name: tensor} of all that an update changes."""
        momentum = {name: t for name, t in self.optimizer.state_dict().items() if isinstance(t, paddle.Tensor)}
        averages = {f"average of {name}": tensor for name, tensor in self.average.tensors.items()}
        return dict(self.task.model.named_parameters()) | momentum | averages

    def fetch(self, run_folder):
        """The FIGURES of the last update as {name: float}, and with skip_nonfinite how many were skipped so far.

        One transfer for all updates since the last call.

        Raises:
            FloatingPointError: more than skip_nonfinite updates were not finite; the message describes the first too many.
        """
        allowed = self.config.train.skip_nonfinite
        for done, means in zip(self.pending, fetch_all(self.pending)):
            if not is_finite(means, scaled=self.scaler is not None):
                self.skipped += 1
                if self.skipped > allowed:
                    raise FloatingPointError(describe_failure(done, means, checkpoint.latest(run_folder)))
        self.pending.clear()
        return means | ({"skipped": self.skipped} if allowed else {})

    def backward(self, micro_batches, update):
        """Leave the clipped gradient of the global batch in the parameters.

        Each micro-batch's loss is a mean over its own unmasked positions, so it is weighted with their number and the
        gradient is divided by the number in the whole global batch: neither accumulation nor ranks change it.

        Returns:
            the FIGURES, float32 [4] on the device.
        """
        # a pure function of seed, update and rank: resuming needs no generator state
        paddle.seed(_dropout_seed(self.config.train.seed, update, self.rank))
        totals = paddle.zeros([4])  # loss, ce and kl weighted with positions; positions
        for number, batch in enumerate(reported(micro_batches, f"update {update}: micro-batch", len(micro_batches)), start=1):
            last = number == len(micro_batches)
            with self.model.no_sync() if self.averages and not last else contextlib.nullcontext():
                totals += self._accumulate(batch)
            ranks.progress.signs += 1
        totals = ranks.sum_over_all(totals)
        grad_norm = self._scale_gradients((self.ranks if self.averages else 1) / totals[3])
        return paddle.concat([totals[:3] / totals[3], grad_norm.reshape([1])])

    def _accumulate(self, batch):
        """Forward and backward of one micro-batch: [loss, ce, kl, 1] times its unmasked positions."""
        rdrop = self.config.rdrop
        with paddle.amp.auto_cast(**self.amp):
            logits, labels, pad_mask = self.task.forward(self.model, batch, rdrop.passes)
        if rdrop.passes == 1:
            ce = cross_entropy(logits, labels, pad_mask)
            loss, kl = ce, paddle.zeros_like(ce)
        else:
            loss, ce, kl = self.criterion.terms(*logits.chunk(2), labels, pad_mask)
        positions = (~pad_mask).astype("float32").sum() if pad_mask is not None else paddle.full([], labels.size, "float32")
        weighted = loss * positions
        (self.scaler.scale(weighted) if self.scaler else weighted).backward()
        return paddle.stack([weighted, ce * positions, kl * positions, positions]).detach()

    @paddle.no_grad()
    def _scale_gradients(self, factor):
        """Multiply the gradients by `factor`, then clip; returns their global norm in between."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = self.shards.global_norm() * factor
        if self.config.train.clip_norm is not None:
            factor = factor * (self.config.train.clip_norm / norm.clip(min=self.config.train.clip_norm))
        for gradient in self.shards.gradients():
            gradient.multiply_(factor)
        return norm

    def state(self):
        """What a checkpoint says beside its arrays, of JSON values.

        Samples, augmentations and dropout masks are functions of seed, update and rank: there is no generator's state to keep,
        nor anything of the other ranks. `update` leads to all of them, and the rest is there to be compared.
        """
        return dict(
            update=self.updates_done,
            best=self.best,
            skipped=self.skipped,
            ranks=self.ranks,
            lr=self.optimizer.get_lr(),
            training_data=self.task.data_state(self.updates_done),
            config=asdict(self.config),
        )

    def save(self, run_folder):
        """Write a checkpoint; all ranks must call it.

        Raises:
            FloatingPointError: something in it is not finite.
            UserError: it cannot be written.
        """
        # O2 trains float32 copies inside the optimizer, which a checkpoint does not hold: such a run cannot be resumed
        if self.config.train.amp != "O2":
            arrays = dict(momentum=checkpoint.momentum_arrays(self.task.model, self.optimizer, self.shards))
            if self.rank == 0:
                arrays |= dict(model=checkpoint.model_arrays(self.task.model))
                arrays |= dict(ema=self.average.arrays()) if self.config.train.ema_decay is not None else {}
                checkpoint.save(run_folder, self.state(), **arrays)
        ranks.wait_for_all()

    def restore(self, run_folder):
        """Continue from the newest checkpoint that verifies; `notes` say what the log should.

        Raises:
            UserError: none verifies, or it is of a config or of data that would change the result.
        """
        folder, self.notes = checkpoint.newest_whole(run_folder)
        state = checkpoint.load_state(folder)
        self.updates_done, self.best, self.skipped = state["update"], state["best"], state["skipped"]
        self.schedule.step(self.updates_done)
        self.notes += checkpoint.compare(folder, state, self.state())
        checkpoint.set_parameters(self.task.model, checkpoint.load_arrays(folder, "model"))
        checkpoint.set_momentum(checkpoint.load_arrays(folder, "momentum"), self.task.model, self.optimizer, self.shards)
        if self.config.train.ema_decay is not None:
            self.average.load(checkpoint.load_arrays(folder, "ema"))
        self.batches = iter(self.task.batches("train", self.updates_done + 1))


def _keep_best(trainer, log, interruption):
    """Evaluate on the held-out part and keep the weights when they are the best so far; returns False when interrupted."""
    task, config, update = trainer.task, trainer.config, trainer.updates_done
    best, origin = None, {}
    if config.data.val_fraction > 0:
        score = evaluate(task, "val", trainer.amp, interruption)
        if score is None:
            return False
        log.evaluation(update, "val", score)
        measure, best = next(iter(score.items()))
        origin = {f"val_{measure}": best}
        if trainer.best is not None and best <= trainer.best:
            return True
    elif update < config.train.steps:  # nothing to select by: the last weights are kept
        return True
    if trainer.rank == 0:
        checkpoint.save_best(log.folder, task.model, update=update, **origin)
    trainer.best = best
    return True


def _say_stopped(trainer, log, interruption):
    advice = "train.amp O2 saves nothing to continue with" if trainer.config.train.amp == "O2" else "continue with --resume"
    log.message(f"stopped by {interruption.cause} after update {trainer.updates_done}; {advice}")


def _dropout_seed(seed, update, rank):
    return int(np.random.SeedSequence([seed, update, rank]).generate_state(1)[0])
