"""The same training twice: by this package's Trainer and in plain torch, with the same weights, batches and dropout masks."""

import numpy as np
import paddle
import torch

from rdrop_paddle.training.trainer import Trainer

from . import torch_reference

UPDATES, DROP_RATE = 20, 0.1


class TrainingPair:
    """This package's Trainer and the same training in plain torch.

    Args:
        task: with `masks.layer` in the places of its model's dropout.
        reference: torch's model, with `masks.for_torch` in the same places.
        reference_forward: a micro-batch -> torch's (logits [positions, classes], labels [positions]) of one pass.
        ours, theirs: a function -> {name: array}, what it reads of each parameter, with the same names on both sides.
    """

    def __init__(self, task, reference, masks, config, *, reference_forward, ours, theirs):
        self.reference, self.masks = reference, masks
        self.reference_forward, self.ours, self.theirs = reference_forward, ours, theirs
        self.trainer = Trainer(task, config)
        task.loss_terms = self._with_masks(task.loss_terms)
        train = config.train
        self.optimizer = torch_reference.build_optimizer(reference.parameters(), train)
        self.schedule = torch_reference.SCHEDULES[train.schedule](
            self.optimizer, steps=train.steps, warmup_steps=train.warmup_steps
        )

    def _with_masks(self, loss_terms):
        def with_masks(model, batch, passes):
            self.masks.samples = batch[-1].numpy()
            return loss_terms(model, batch, passes)

        return with_masks

    def reference_backward(self, micro_batches, update):
        """Two forwards per micro-batch as in the official code; leaves the mean gradient; returns the mean loss and kl."""
        self.masks.update = update
        self.optimizer.zero_grad()
        sums, positions, config = {"loss": 0.0, "kl": 0.0}, 0, self.trainer.config
        for batch in micro_batches:
            self.masks.samples = batch[-1].numpy()
            logits = []
            for self.masks.torch_pass in (0, 1):
                of_pass, labels = self.reference_forward(batch)
                logits.append(of_pass)
            loss, _, kl = torch_reference.rdrop_loss(*logits, labels, config.rdrop.alpha, config.train.label_smoothing)
            (loss * len(labels)).backward()
            sums["loss"] += loss.item() * len(labels)
            sums["kl"] += kl.item() * len(labels)
            positions += len(labels)
        for parameter in self.reference.parameters():
            if parameter.requires_grad:
                parameter.grad /= positions
        return {name: total / positions for name, total in sums.items()}

    def gradients(self):
        """(ours, theirs) of the first global batch: {name: array}, raw."""
        return self.losses_and_gradients()[1]

    def losses_and_gradients(self):
        """((ours, theirs), (ours, theirs)): {"loss": array} of the first global batch, and its gradients."""
        micro_batches, _ = self.trainer.read()
        self.trainer.config.train.clip_norm = None
        found = self.trainer.backward(micro_batches, 1).numpy()[:1]
        expected = np.array([self.reference_backward(micro_batches, 1)["loss"]])
        losses = {"loss": found}, {"loss": expected}
        return losses, (self.ours(lambda p: p.grad.numpy()), self.theirs(lambda p: p.grad.numpy()))

    def train(self, comparison, learning_rate, training):
        """UPDATES updates on both sides, as rows of the Comparison; `learning_rate` and `training` name the checks."""
        found, expected, rates = {}, {}, ([], [])
        for update in range(1, UPDATES + 1):
            rates[0].append(self.trainer.optimizer.get_lr())
            rates[1].append(self.optimizer.param_groups[0]["lr"])
            micro_batches, _ = self.trainer.read()
            self.masks.update = update
            self.trainer.step(micro_batches)
            means = self.trainer.fetch(comparison.output)
            terms = self.reference_backward(micro_batches, update)
            torch.nn.utils.clip_grad_norm_(self.reference.parameters(), self.trainer.config.train.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            for name in ("loss", "kl"):
                found[f"{name} {update}"], expected[f"{name} {update}"] = np.array(means[name]), np.array(terms[name])
        losses, kls = ([{n: x[n] for n in x if n.startswith(term)} for x in (found, expected)] for term in ("loss", "kl"))
        if min(x.min() for x in kls[1].values()) <= 0:
            raise ValueError("the KL is not positive: the dropout masks do nothing")
        weights = (self.ours(lambda p: p.numpy()), self.theirs(lambda p: p.detach().numpy()))
        return [
            comparison.compare(learning_rate, "each update", *({"lr": np.array(side)} for side in rates), 1e-12),
            comparison.compare(training, f"loss of each of {UPDATES} updates", *losses, 1e-4),
            comparison.compare(training, f"KL of each of {UPDATES} updates", *kls, 1e-4),
            comparison.compare(training, "final weights", *weights, 1e-4),
        ]


class Masks:
    """Dropout masks that are a function of (update, site, pass, sample), for either framework."""

    def __init__(self):
        self.update, self.samples, self.torch_pass = 1, None, 0

    def of_pass(self, site, which, shape):
        keys = [(self.update, site, which, int(sample)) for sample in self.samples]
        drawn = [1, *shape[1:]]
        drawn[0], drawn[-2] = drawn[-2], drawn[0]  # positions first: a last layer of only the first one draws the same for it
        kept = [np.random.default_rng(key).random(drawn, dtype="float32").swapaxes(0, -2) >= DROP_RATE for key in keys]
        return np.concatenate(kept).astype("float32") / (1 - DROP_RATE)

    def for_torch(self, site, x):
        return torch.from_numpy(self.of_pass(site, self.torch_pass, x.shape))

    def layer(self, site):
        """A Paddle layer for x [passes * N, ...], of two passes."""
        return _MaskLayer(self, site)


class _MaskLayer(paddle.nn.Layer):
    def __init__(self, masks, site):
        super().__init__()
        self._masks, self._site = masks, site

    def forward(self, x):
        passes = [self._masks.of_pass(self._site, which, x.shape) for which in (0, 1)]
        return x * paddle.to_tensor(np.concatenate(passes))


def with_biases_of_keys_among_others(arrays):
    """The three biases of an attention as one array: that of the keys changes nothing, its gradient is mere rounding."""
    joined = {name: array for name, array in arrays.items() if not name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))}
    for name in arrays:
        if name.endswith("k_proj.bias"):
            three = [arrays[name.replace("k_proj", f"{letter}_proj")] for letter in "qkv"]
            joined[name.replace("k_proj", "qkv_proj")] = np.concatenate(three)
    return joined
