"""Training and evaluation of a task; knows updates, ranks and the loss, not images.

A task has `model`, `size(split)`, `batches(split, first_update)`, `forward(model, batch, passes)` -> (logits, labels, pad mask
or None), `counts(logits, labels, pad_mask)` -> int64 [len(count_names)], `score(counts)` -> dict whose first value is the
higher, and `data_state(updates)` -> dict of JSON values that a checkpoint knows its data by; the last tensor of a batch
holds the indices of its samples. See vision/task.py.
"""

import paddle

from .. import ranks
from ..console import say
from ..durability import checkpoint
from ..durability.interruption import Interruption
from .inference import for_evaluation
from .update_figures import Clock


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
                _save(trainer, log)
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
            _save(trainer, log)
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
    counts, interrupted = paddle.zeros([len(task.count_names)], dtype="int64"), False
    settings = amp or {"enable": False}
    with paddle.no_grad(), paddle.amp.auto_cast(**settings), for_evaluation(task.model, task.size(split)) as model:
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
    ranks.wait_for_all()  # a slow disk would have the others' next collective give up
    trainer.best = best
    return True


def _save(trainer, log):
    log.sync()  # a run that resumes from the checkpoint will not write these lines again
    trainer.save(log.folder)


def _say_stopped(trainer, log, interruption):
    advice = "train.amp O2 saves nothing to continue with" if trainer.config.train.amp == "O2" else "continue with --resume"
    log.message(f"stopped by {interruption.cause} after update {trainer.updates_done}; {advice}")
