"""Learning rates of updates 1..steps: linear warm-up to the peak at update = warmup_steps, then one of several ways down.

The first update is number 1, as in "Attention is all you need" (arXiv 1706.03762). fairseq and transformers put the number of
updates made so far, 0 for the first update, into the same formulas, so that theirs come one update later than these.
"""

import functools
import math

from paddle.optimizer.lr import LRScheduler


def cosine(update, *, steps, warmup_steps, peak, warmup_init_lr=0.0):
    """Half a cosine, as in Google's and the paper's ViT recipes.

    1/2 peak (1 + cos(pi (update - warmup_steps) / (steps - warmup_steps))), which is 0 at update = steps.
    """
    if update <= warmup_steps:
        return _warm_up(update, warmup_steps, peak, warmup_init_lr)
    progress = min((update - warmup_steps) / (steps - warmup_steps), 1.0)
    return 0.5 * peak * (1.0 + math.cos(math.pi * progress))


def inverse_sqrt(update, *, warmup_steps, peak, warmup_init_lr=0.0):
    """peak sqrt(warmup_steps / update), for warmup_steps >= 1.

    fairseq's inverse_sqrt; with peak = 1 / sqrt(width * warmup_steps) that of "Attention is all you need".
    """
    if update <= warmup_steps:
        return _warm_up(update, warmup_steps, peak, warmup_init_lr)
    return peak * math.sqrt(warmup_steps / update)


def polynomial(update, *, steps, warmup_steps, peak, power=1.0, warmup_init_lr=0.0):
    """peak ((steps - update) / (steps - warmup_steps))^power, which is 0 at update = steps.

    fairseq's polynomial_decay with an end_learning_rate of 0; with power 1 transformers' get_linear_schedule_with_warmup.
    """
    if update <= warmup_steps:
        return _warm_up(update, warmup_steps, peak, warmup_init_lr)
    return peak * (max(steps - update, 0) / (steps - warmup_steps)) ** power


def _warm_up(update, warmup_steps, peak, warmup_init_lr):
    return warmup_init_lr + (peak - warmup_init_lr) * update / warmup_steps


def learning_rate(train):
    """The function update -> learning rate that a TrainConfig describes."""
    warm_up = dict(warmup_steps=train.warmup_steps, peak=train.lr, warmup_init_lr=train.warmup_init_lr)
    if train.schedule == "inverse_sqrt":
        return functools.partial(inverse_sqrt, **warm_up)
    if train.schedule == "cosine":
        return functools.partial(cosine, steps=train.steps, **warm_up)
    power = 1.0 if train.schedule == "linear" else train.power
    return functools.partial(polynomial, steps=train.steps, power=power, **warm_up)


class Schedule(LRScheduler):
    """A function update -> learning rate for a Paddle optimizer. After n calls of `step()` it holds that of update n + 1."""

    def __init__(self, learning_rate):
        self._learning_rate = learning_rate
        super().__init__(learning_rate(1))

    def get_lr(self):
        return self._learning_rate(self.last_epoch + 1)
