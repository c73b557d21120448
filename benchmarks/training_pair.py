"""The same training twice: by this package's Trainer and in plain torch, with the same weights, images and dropout masks."""

import numpy as np
import paddle
import torch

from rdrop_paddle import load_config
from rdrop_paddle.training.trainer import Trainer

from . import torch_reference

UPDATES, DROP_RATE = 20, 0.1
SETTINGS = [
    "model.name=vit_ti16",
    "eval.split=test",
    f"train.steps={UPDATES}",
    "train.warmup_steps=5",
    "train.batch_size=16",
    "train.micro_batch_size=4",
    "train.lr=0.01",  # at 0.03 the rounding of float32, in which both sides are equally far off, grows past 1e-4 in 20 updates
    "train.clip_norm=0.5",
    "rdrop.alpha=9.6",
]
OPTIMIZERS = {
    "momentum": [],
    "adamw": [
        "train.optimizer=adamw",
        "train.betas=[0.9,0.98]",
        "train.weight_decay=0.01",
        "train.schedule=linear",
        "train.lr=1e-3",
        "train.epsilon=1e-6",  # with less, gradients of almost nothing make whole steps of their rounding
    ],
}


class TrainingPair:
    """This package's Trainer and the same training in plain torch, with the same images and dropout masks."""

    def __init__(self, alignment, optimizer="momentum"):
        settings = [*SETTINGS, *OPTIMIZERS[optimizer], *alignment.data]
        config = load_config(None, [*settings, "model.image_size=96", f"model.drop_rate={DROP_RATE}"])
        task, self.reference = alignment.models(config, reset_head=True)
        self.masks = Masks()
        self.masks.inject_into(task.model)
        torch_reference.inject_masks(self.reference, self.masks.for_torch)
        self.trainer = Trainer(task, config)
        self.trainer.task.forward = self._forward(task.forward)
        train = config.train
        self.optimizer = torch_reference.build_optimizer(self.reference.parameters(), train)
        schedule = {"cosine": torch_reference.cosine_schedule, "linear": torch_reference.linear_schedule}[train.schedule]
        self.schedule = schedule(self.optimizer, steps=train.steps, warmup_steps=train.warmup_steps)

    def _forward(self, forward):
        def with_masks(model, batch, passes=1):
            self.masks.samples = batch[-1].numpy()
            return forward(model, batch, passes)

        return with_masks

    def reference_backward(self, micro_batches, update):
        """Two forwards per micro-batch as in the official code; leaves the mean gradient; returns the mean loss and kl."""
        self.masks.update = update
        self.optimizer.zero_grad()
        sums = {"loss": 0.0, "kl": 0.0}
        for batch in micro_batches:
            pixels, labels = (torch.from_numpy(x.numpy()) for x in (self.trainer.task.model_input(batch), batch[-2]))
            self.masks.samples = batch[-1].numpy()
            logits = []
            for self.masks.torch_pass in (0, 1):
                logits.append(self.reference(pixels).logits)
            loss, _, kl = torch_reference.rdrop_loss(*logits, labels, self.trainer.config.rdrop.alpha)
            (loss / len(micro_batches)).backward()
            sums["loss"] += loss.item() / len(micro_batches)
            sums["kl"] += kl.item() / len(micro_batches)
        return sums

    def reference_step(self):
        torch.nn.utils.clip_grad_norm_(self.reference.parameters(), self.trainer.config.train.clip_norm)
        self.optimizer.step()
        self.schedule.step()


class Masks:
    """Dropout masks that are a function of (update, site, pass, sample), for either framework."""

    def __init__(self):
        self.update, self.samples, self.torch_pass = 1, None, 0

    def of_pass(self, site, which, shape):
        keys = [(self.update, site, which, int(sample)) for sample in self.samples]
        kept = [np.random.default_rng(key).random(shape[1:], dtype="float32") >= DROP_RATE for key in keys]
        return np.stack(kept).astype("float32") / (1 - DROP_RATE)

    def for_torch(self, site, x):
        return torch.from_numpy(self.of_pass(site, self.torch_pass, x.shape))

    def inject_into(self, model):
        model.pos_drop = _MaskLayer(self, 0)
        for i, block in enumerate(model.blocks):
            block.mlp.drop1, block.mlp.drop2 = _MaskLayer(self, 2 * i + 1), _MaskLayer(self, 2 * i + 2)


class _MaskLayer(paddle.nn.Layer):
    def __init__(self, masks, site):
        super().__init__()
        self._masks, self._site = masks, site

    def forward(self, x):
        passes = [self._masks.of_pass(self._site, which, x.shape) for which in (0, 1)]
        return x * paddle.to_tensor(np.concatenate(passes))
