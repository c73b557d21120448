"""What one update needs and does: the gradient of a global batch, the step, and its state in checkpoints."""

import contextlib
import itertools
import math
import time
from dataclasses import asdict

import numpy as np
import paddle

from .. import ranks
from ..config import check_ranks, flatten, share_of_update
from ..console import reported
from ..durability import checkpoint
from ..errors import UserError
from .ema import WeightAverage
from .optimizers import OptimizerState, build_optimizer
from .schedule import Schedule, learning_rate
from .sharding import Shards
from .tables import Tables
from .update_figures import TERMS, Pending, describe_failure, fetch_all, is_finite, move_if_finite


def can_recompute():
    """Whether Paddle computes a block again with the same dropout: Paddle 2 does on a GPU only."""
    return paddle.get_device() != "cpu" or not paddle.__version__.startswith("2.")


class Trainer:
    """What one update needs: model, optimizer, learning rate, precision; and how far training has come.

    Raises:
        UserError: micro-batches that the ranks cannot share, too few training samples, sharding over one rank, mixed
            precision without a GPU, or recompute where `can_recompute` is False.
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
        self.share = share_of_update(config.train, self.rank, self.ranks)  # micro-batches
        train_config = config.train
        if train_config.recompute and not can_recompute():
            raise UserError(f"train.recompute needs Paddle 3 on a CPU, and this is {paddle.__version__}: train.recompute=false")
        self.schedule = Schedule(learning_rate(train_config))
        self.shards = Shards(task.model.parameters(), train_config.sharding)
        self.optimizer = build_optimizer(train_config, self.schedule, self.shards.own)
        self._set_precision(train_config)
        self.optimizer_state = OptimizerState(train_config, self.optimizer, task.model, self.shards)
        self.batches = iter(task.batches("train"))
        ranks.wait_for_all()  # reading the data may take one of them longer
        self.data_parallel = self.ranks > 1 and self.shards.stage < 2  # it averages over the ranks; Shards adds up
        self.tables = Tables(task.model.sublayers() if self.data_parallel else ())
        self.model = paddle.DataParallel(task.model) if self.data_parallel else task.model
        self.shards.exchange()
        self.average = WeightAverage(task.model, train_config.ema_decay)
        task.model.train()

    def _set_precision(self, train_config):
        self.amp = dict(enable=train_config.amp != "off", dtype=train_config.amp_dtype)
        self.scales = self.amp["enable"] and train_config.amp_dtype == "float16"
        self.scaler = None  # until the first micro-batch shows what it will have to scale
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

    def read(self):
        """The micro-batches of the next update, and the seconds spent waiting for them."""
        start = time.perf_counter()
        return list(itertools.islice(self.batches, self.share)), time.perf_counter() - start

    def step(self, micro_batches):
        """One update; `fetch` tells later how it went.

        Nothing waits for the device but the loss from hidden states, for the number of positions that are no padding.
        """
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
        averages = {f"average of {name}": tensor for name, tensor in self.average.tensors.items()}
        return dict(self.task.model.named_parameters()) | self.optimizer_state.tensors() | averages

    def fetch(self, run_folder):
        """The FIGURES of the last update as {name: float}, and with skip_nonfinite how many were skipped so far. The terms of
        the loss have their names by the config.

        One transfer for all updates since the last call; "positions" is the number in all of these.

        Raises:
            FloatingPointError: more than skip_nonfinite updates were not finite; the message describes the first too many.
        """
        allowed, positions = self.config.train.skip_nonfinite, 0
        for done, means in zip(self.pending, fetch_all(self.pending)):
            positions += round(means["positions"])
            if not is_finite(means, scaled=self.scaler is not None):
                self.skipped += 1
                if self.skipped > allowed:
                    raise FloatingPointError(describe_failure(done, means, checkpoint.latest(run_folder)))
        self.pending.clear()
        names = dict(zip(TERMS, self.config.terms))
        means = {names.get(name, name): value for name, value in means.items()}
        return means | dict(positions=positions) | ({"skipped": self.skipped} if allowed else {})

    def backward(self, micro_batches, update):
        """Leave the clipped gradient of the global batch in the parameters.

        Each micro-batch's loss is a mean over its own positions, so it is weighted with their number and the gradient is
        divided by the number in the whole global batch: neither the cut into micro-batches nor ranks change it, unless
        rdrop.reduction is "sum", by which the KL's weight is the micro-batch's.

        Returns:
            the FIGURES, float32 [5] on the device.
        """
        # a pure function of seed, update and rank: resuming needs no generator state
        paddle.seed(_dropout_seed(self.config.train.seed, update, self.rank))
        totals = paddle.zeros([4])  # loss, ce and kl weighted with positions; positions
        for number, batch in enumerate(reported(micro_batches, f"update {update}: micro-batch", len(micro_batches)), start=1):
            last = number == len(micro_batches)
            with self.model.no_sync() if self.data_parallel and not last else contextlib.nullcontext():
                totals += self._accumulate(batch)
            ranks.progress.signs += 1
        totals = ranks.sum_over_all(totals)
        if self.data_parallel:
            self.tables.average()
        grad_norm = self._scale_gradients((self.ranks if self.data_parallel else 1) / totals[3])
        return paddle.concat([totals[:3] / totals[3], grad_norm.reshape([1]), totals[3:]])

    def _accumulate(self, batch):
        """Forward and backward of one micro-batch: [loss, ce, kl, 1] times its positions."""
        with paddle.amp.auto_cast(**self.amp):
            loss, ce, kl, positions = self.task.loss_terms(self.model, batch, self.config.rdrop.passes)
        if self.scales and self.scaler is None:
            self.scaler = paddle.amp.GradScaler(init_loss_scaling=_initial_scale(positions))
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
            arrays = self.optimizer_state.arrays()
            if self.rank == 0:
                arrays |= dict(model=checkpoint.model_arrays(self.task.model))
                arrays |= dict(ema=self.average.arrays()) if self.config.train.ema_decay is not None else {}
                checkpoint.save(run_folder, self.state(), self.task.belongings(), **arrays)
        ranks.wait_for_all()

    def restore(self, run_folder):
        """Continue from the newest checkpoint that verifies; `notes` say what the log should.

        Raises:
            UserError: none verifies, or it is of a config or of data that would change the result.
        """
        folder, self.notes = checkpoint.newest_whole(run_folder)
        state = checkpoint.load_state(folder)
        self.updates_done, self.best, self.skipped = state["update"], state["best"], state["skipped"]
        if self.updates_done > self.config.train.steps:
            steps = self.config.train.steps
            raise UserError(f"{folder} is of update {self.updates_done}, and train.steps is {steps}: give that many or more")
        self.schedule.step(self.updates_done)
        self.notes += checkpoint.compare(folder, state, self.state(), free=self.config.changeable_on_resuming())
        before, now = flatten(state["config"]), flatten(asdict(self.config))
        if any(before.get(key) != now[key] for key in self.config.scored_by()):
            self.best = None  # a score of another kind, which would hold its weights for ever or never
        checkpoint.set_parameters(self.task.model, checkpoint.load_arrays(folder, "model"))
        self.optimizer_state.load({slot: checkpoint.load_arrays(folder, slot) for slot in self.optimizer_state.slots})
        if self.config.train.ema_decay is not None:
            self.average.load(checkpoint.load_arrays(folder, "ema"))
        self.batches = iter(self.task.batches("train", self.updates_done + 1))


def _initial_scale(positions):
    """Where float16's loss scaling begins, for a loss that is a sum over so many positions: as usual, 2^16 times a mean.

    The same on every rank, because their gradients are added up; waits for the device.
    """
    mean = ranks.total(int(positions.numpy())) / ranks.count()
    return 2.0 ** (16 - round(math.log2(max(mean, 1))))


def _dropout_seed(seed, update, rank):
    return int(np.random.SeedSequence([seed, update, rank]).generate_state(1)[0])
