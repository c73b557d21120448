"""Training and evaluation of a task; knows updates, ranks and the loss, not what samples are.

A task is one object, that of vision/task.py for instance, with

- `model`, a paddle.nn.Layer; `load_initial_weights()`, and `load_weights(path, sha256, ema)` -> a report
- `read_splits()`, and `size(split)`: how many samples
- `batches(split, first_update)`: this rank's micro-batches, lists of tensors of which the last holds the samples' indices; for
  "train" without end, for any other split once, each sample on one rank
- `loss_terms(model, batch, passes)` -> (loss, cross entropy, KL, positions): means over so many positions, see criterion.py
- `for_evaluation(split, selecting)`: a context that gives what `evaluate` takes as the model; when it is only for selecting
  the best weights, as little of the score will do as the config's `selection` needs
- `evaluate(model, batch)` -> a tensor [len(count_names)], which is summed over batches and ranks; integers where the measure
  allows, so that any number of ranks prints the same digits; what is counted may depend on the split, see `for_evaluation`
- `score(counts)` -> {name: number} with the `measure` of its Config first, or its `selection` when selecting, and
  `in_words(score)`, its closing line
- `data_state(updates)`: JSON values that a checkpoint knows its data by
- `belongings()` -> {name: JSON value}: what is needed to use the weights without the data, kept with them, see
  weights/belongings.py
- `describe()` -> {what: words} for the start of a run; for VisualDL `examples()` -> {tag: picture or text}, what the model is
  given, and `answers()`, what it makes of the held-out part by now
- `recording()`: the task, or what stands for it, with `write(path, split)`: the answer to each sample, for tools/eval.py
"""

import paddle

from .. import ranks
from ..console import say
from ..durability import checkpoint
from ..durability.interruption import Interruption
from .update_figures import Clock


def train(trainer, log, interruption=None):
    """Train from where `trainer` stands to `train.steps`, with checkpoints and evaluations in the run folder of `log`.

    The best weights by the held-out part (the last ones when there is none) are saved as best.safetensors; at the end
    they are loaded and `eval.split` is read once, in float32. Returns its score, or None when `interruption` ended training:
    then there is a checkpoint of the last update.

    Raises:
        FloatingPointError: more losses or gradients that are not finite than may be skipped, before anything of it is saved.
        UserError: the disk is full, or the run folder read-only.
    """
    config, clock = trainer.config, Clock()
    steps = config.train.steps
    interruption = interruption or Interruption()
    log.belongings(trainer.task.belongings())
    for note in trainer.notes:
        log.message(note)
    ranks.wait_for_all()  # the first has told VisualDL the whole past of a resumed run
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
            clock.count(means.pop("positions"))
        if logs:
            log.training(trainer.updates_done, lr=lr, **means, **clock.lap(config.unit))
        if saves or stops:
            _save(trainer, log)
            clock.restart()
        if stops:
            return _say_stopped(trainer, log, interruption)
    trainer.task.model.to(dtype="float32")  # after O2; what is reported is what tools/eval.py finds
    checkpoint.load_best(log.folder, trainer.task.model)
    score = evaluate(trainer.task, config.eval.split, None, interruption)
    if score is None:
        return _say_stopped(trainer, log, interruption)
    log.evaluation(steps, config.eval.split, score, final=True)
    log.outcome(trainer.task.in_words(score))
    return score


def evaluate(task, split, amp=None, interruption=None, *, selecting=False):
    """The score of `task.model` on a split, {name: number} with the leading one first, the same on every rank.

    Each sample is counted once and the counts are summed over the ranks. `amp` holds arguments of
    `paddle.amp.auto_cast`; the default is full precision. `selecting` asks for what the best weights are selected by alone.
    None when `interruption` has ended it on any rank.
    """
    was_training = task.model.training
    task.model.eval()
    interrupted = False
    settings = amp or {"enable": False}
    with paddle.no_grad(), paddle.amp.auto_cast(**settings), task.for_evaluation(split, selecting) as model:
        counts = paddle.zeros([len(task.count_names)], "float64")  # which holds integers up to 2^53
        for batch in task.batches(split):
            interrupted = interruption is not None and interruption.requested()
            if interrupted:
                break
            counts += task.evaluate(model, batch).astype("float64")
            ranks.progress.signs += 1
    if was_training:
        task.model.train()
    ranks.wait_for_all()  # one of them may have had a batch more
    summed = ranks.sum_over_all(paddle.concat([counts, paddle.to_tensor([float(interrupted)], "float64")]))
    *counts, interrupted = summed.numpy()
    return None if interrupted else task.score(counts)


def _keep_best(trainer, log, interruption):
    """Evaluate on the held-out part and keep the weights when they are the best so far; returns False when interrupted."""
    task, config, update = trainer.task, trainer.config, trainer.updates_done
    best, origin, measure = None, {}, config.selection
    if config.has_held_out():
        score = evaluate(task, "val", trainer.amp, interruption, selecting=True)
        if score is None:
            return False
        log.evaluation(update, "val", score)
        log.examples(_answers(task, trainer) if trainer.rank == 0 else {}, update)
        ranks.wait_for_all()  # a long search would have the others' next collective give up
        best = score[measure.name]
        origin = {f"val_{measure.name}": best}
        if trainer.best is not None and not measure.is_better(best, trainer.best):
            return True
    elif update < config.train.steps:  # nothing to select by: the last weights are kept
        return True
    if trainer.rank == 0:
        checkpoint.save_best(log.folder, task.model, task.belongings(), update=update, **origin)
    ranks.wait_for_all()  # a slow disk would have the others' next collective give up
    trainer.best = best
    return True


def _answers(task, trainer):
    task.model.eval()
    with paddle.no_grad(), paddle.amp.auto_cast(**trainer.amp):
        found = task.answers()
    task.model.train()
    return found


def _save(trainer, log):
    log.sync()  # a run that resumes from the checkpoint will not write these lines again
    trainer.save(log.folder)


def _say_stopped(trainer, log, interruption):
    advice = "train.amp O2 saves nothing to continue with" if trainer.config.train.amp == "O2" else "continue with --resume"
    log.message(f"stopped by {interruption.cause} after update {trainer.updates_done}; {advice}")
