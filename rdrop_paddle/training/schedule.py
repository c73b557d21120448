"""The learning rate: linear warm-up, then half a cosine down to exactly 0."""

import math

from paddle.optimizer.lr import LRScheduler


def lr_at(update, *, steps, warmup_steps, peak):
    """Learning rate of update 1..steps, as in Google's and the paper's ViT recipes.

    peak * update / warmup_steps up to update = warmup_steps, where it is `peak`; then
    1/2 peak (1 + cos(pi (update - warmup_steps) / (steps - warmup_steps))), which is 0 at update = steps.
    """
    if update <= warmup_steps:
        return peak * update / warmup_steps
    progress = min((update - warmup_steps) / (steps - warmup_steps), 1.0)
    return 0.5 * peak * (1.0 + math.cos(math.pi * progress))


class WarmupCosine(LRScheduler):
    """`lr_at` for a Paddle optimizer. After n calls of `step()` it holds the learning rate of update n + 1."""

    def __init__(self, *, steps, warmup_steps, peak):
        self.steps = steps
        self.warmup_steps = warmup_steps
        super().__init__(learning_rate=peak)

    def get_lr(self):
        return lr_at(self.last_epoch + 1, steps=self.steps, warmup_steps=self.warmup_steps, peak=self.base_lr)
