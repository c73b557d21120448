"""The checks of Paddle's paper-reproduction guide that text tasks share: this package against transformers' model of the same.

Each task has its data where they are under RDROP_DATA and made sentences otherwise.
"""

from pathlib import Path

import numpy as np
import paddle
import torch

from rdrop_paddle import load_config
from rdrop_paddle.console import say
from rdrop_paddle.durability.checkpoint import model_arrays

from .comparison import Comparison
from .training_pair import DROP_RATE, UPDATES, Masks, TrainingPair, with_biases_of_keys_among_others

SMALL_UPDATES = [
    f"model.drop_rate={DROP_RATE}",
    f"train.steps={UPDATES}",
    "train.warmup_steps=5",
    "train.clip_norm=0.5",
    "train.epsilon=1e-6",  # with less, gradients of almost nothing make whole steps of their rounding
    "eval.split=test",
]


class TextAlignment(Comparison):
    """Both models with the same weights, and the folder that the results go to.

    A subclass sets `settings` and `inputs`, and has

    - `name` of the task, `task`, its class, and `learning_rate`, what the check of its schedule is called
    - `independent`, the module of torch's model, with `load(model, arrays)`, `inject_masks(model, mask)` and
      `in_paddle_layout(model, names, read)`
    - `build(task)` -> torch's model in eval mode, and `logits(reference, *inputs)` of it
    - `put_masks(model, masks)`: in the places of dropout, counted as by the module's `inject_masks`
    - `ignored`: the label of what is not scored
    """

    checks = ("forward", "backward", "training")
    of_training = ()  # more settings, of the updates alone

    def run(self):
        """All checks, as rows."""
        rows = []
        for check in self.checks:
            say(f"comparing: {check} of {self.name}")
            rows += getattr(self, check)()
        return rows

    def models(self, *more):
        """(config, this package's task, torch's model), of the same weights, none of them at its initial 0 or 1."""
        config = load_config(None, [*self.settings, *more])
        paddle.seed(0)
        task = self.task(config)
        task.load_initial_weights()
        rng = np.random.default_rng(0)
        for parameter in [] if config.model.weights else task.model.parameters():
            if parameter.ndim == 1:
                parameter.set_value(parameter.numpy() + rng.normal(0, 0.02, parameter.shape).astype("float32"))
        reference = self.build(task)
        self.independent.load(reference, model_arrays(task.model))
        return config, task, reference

    def forward(self):
        """Logits of the first samples of the test split."""
        _, task, reference = self.models()
        *inputs, labels, _ = next(iter(task.batches("test")))
        task.model.eval()
        with paddle.no_grad(), torch.no_grad():
            found = task.model(*inputs).numpy()
            expected = self.logits(reference, *(torch.from_numpy(x.numpy()) for x in inputs)).numpy()
        kept = labels.numpy() != self.ignored
        return [self.compare(f"{self.name}, forward", "logits", {"logits": found[kept]}, {"logits": expected[kept]}, 1e-5)]

    def backward(self):
        """The loss of one R-Drop global batch and every parameter's gradient."""
        losses, gradients = self.training_pair().losses_and_gradients()
        return [
            self.compare(f"{self.name}, loss", "loss", *losses, 1e-6),
            self.compare(f"{self.name}, backward", "gradient of each parameter", *gradients, 1e-4),
        ]

    def training(self):
        """20 R-Drop updates of 2 micro-batches, with AdamW, decay, clipping, warm-up and the task's schedule."""
        return self.training_pair(*self.of_training).train(self, self.learning_rate, f"{self.name}, training, AdamW")

    def training_pair(self, *more):
        """The TrainingPair with `more` settings."""
        config, task, reference = self.models(*more)
        masks = Masks()
        self.put_masks(task.model, masks)
        self.independent.inject_masks(reference, masks.for_torch)
        names = [name for name, _ in task.model.named_parameters()]

        def reference_forward(batch):
            *inputs, labels = (torch.from_numpy(tensor.numpy()) for tensor in batch[:-1])
            kept = labels != self.ignored
            return self.logits(reference, *inputs)[kept], labels[kept]

        def ours(read):
            return with_biases_of_keys_among_others({name: read(p) for name, p in task.model.named_parameters()})

        def theirs(read):
            return with_biases_of_keys_among_others(self.independent.in_paddle_layout(reference, names, read))

        return TrainingPair(task, reference, masks, config, reference_forward=reference_forward, ours=ours, theirs=theirs)


def write_made_texts(folder, endings):
    """Files train, val and test of made sentences, 3 to 12 words each, with each of the `endings`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 20), ("test", 20)):
        for ending in endings:
            words = [rng.integers(0, 60, rng.integers(3, 13)) for _ in range(count)]
            lines = [" ".join(f"{ending}{number}" for number in sentence) for sentence in words]
            (Path(folder) / f"{split}.{ending}").write_text("".join(f"{line}\n" for line in lines))
