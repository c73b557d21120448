"""The five checks of Paddle's paper-reproduction guide, this package against the torch reference, and a look at the features.

Each check compares named arrays by max|a - b| / max|b|, writes both sides as `.npy` dictionaries and a diff log as reprod_log
does, and gives rows for the summary. Real weights and images are used where they are, random weights and digits otherwise.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import torch

from rdrop_paddle import load_config
from rdrop_paddle.config import data_root
from rdrop_paddle.console import say
from rdrop_paddle.durability import files
from rdrop_paddle.durability.checkpoint import model_arrays
from rdrop_paddle.loss import RDropLoss
from rdrop_paddle.vision.architectures import ARCHITECTURES
from rdrop_paddle.vision.task import ImageClassification
from rdrop_paddle.vision.weights import load_weights

from . import torch_reference
from .training_pair import SETTINGS, UPDATES, TrainingPair

WEIGHTS = "Ti_16-i21k-imagenet2012-res_224.npz"
ARCHIVE = "cifar-100-python.tar.gz"
SAVED = 4  # images whose block outputs are written to disk


class Row(NamedTuple):
    """One line of the summary: the worst tensor of a check."""

    check: str
    compared: str
    difference: float
    bound: float

    @property
    def passed(self):
        return self.difference <= self.bound


class Alignment:
    """Both models with the same weights, and the folder that the results go to."""

    def __init__(self, output):
        self.output = Path(output)
        with files.writing(self.output, "choose another --output"):
            self.output.mkdir(parents=True, exist_ok=True)
        self.weights = data_root() / WEIGHTS if (data_root() / WEIGHTS).exists() else None
        real_images = (data_root() / ARCHIVE).exists()
        self.data = ["data.name=cifar100", "model.classes=100"] if real_images else ["data.name=digits", "model.classes=10"]
        self.real = real_images and self.weights is not None
        self.inputs = f"{'real' if self.weights else 'random'} Ti/16 weights, {'CIFAR-100' if real_images else 'digits'}"

    def run(self):
        """All checks, as rows."""
        rows = []
        for check in (self.forward_and_metric, self.loss, self.backward, self.training_by_momentum, self.training_by_adamw):
            say(f"comparing: {check.__name__.replace('_', ' ')}")
            rows += check()
        return rows

    def models(self, config, reset_head):
        """(this package's model, torch's), each with the weights read by its own code."""
        numbers = dict(image_size=config.model.image_size, classes=config.model.classes, **ARCHITECTURES[config.model.name])
        reference = torch_reference.build_vit(**numbers)
        task = ImageClassification(config)
        if self.weights:
            torch_reference.load_google_npz(reference, self.weights)
            load_weights(task.model, self.weights, reset_head=reset_head)
        else:
            with tempfile.TemporaryDirectory() as folder:
                reference.save_pretrained(folder)
                load_weights(task.model, f"{folder}/model.safetensors")
        if reset_head:  # the same small random head: with one of zeros the first gradients would all be zero
            weight = np.random.default_rng(0).normal(0, 0.02, task.model.head.weight.shape).astype("float32")
            task.model.head.weight.set_value(weight)
            bias = np.random.default_rng(1).normal(0, 0.02, task.model.head.bias.shape).astype("float32")
            task.model.head.bias.set_value(bias)
            reference.classifier.weight.data = torch.from_numpy(weight.T.copy())
            reference.classifier.bias.data = torch.from_numpy(bias.copy())
        return task, reference

    def forward_and_metric(self):
        """Logits and every block's output of 64 images at 224 px, the weights' own 1000-class head; then the counts."""
        classes = "model.classes=1000" if self.weights else self.data[1]
        config = load_config(None, [*SETTINGS, *self.data, "model.image_size=224", classes])
        task, reference = self.models(config, reset_head=False)
        pixels, labels = self.images(224, 64)
        found, expected = {}, {}
        for i, (ours, theirs) in enumerate(zip(task.model.blocks, reference.vit.layers)):
            tokens = 1 if ours is task.model.blocks[-1] else None  # ours computes the class token alone there
            ours.register_forward_post_hook(lambda _, x, y, i=i: found.update({f"block {i}": y.numpy()}))
            theirs.register_forward_hook(lambda _, x, y, i=i, n=tokens: expected.update({f"block {i}": y[:, :n].numpy()}))
        task.model.eval()
        with paddle.no_grad(), torch.no_grad():
            logits = task.model(pixels)
            reference_logits = reference(torch.from_numpy(pixels.numpy())).logits
        found["logits"], expected["logits"] = logits.numpy(), reference_logits.numpy()
        # labels that the model often meets: its own answer for every other image
        labels[::2] = expected["logits"].argmax(-1)[::2]
        correct = task.counts(logits, paddle.to_tensor(labels)).numpy()[:1]
        reference_correct = (reference_logits.argmax(-1) == torch.from_numpy(labels)).sum().reshape(1).numpy()
        return [
            self.compare("forward", "logits", *({"logits": x["logits"]} for x in (found, expected)), 1e-5),
            self.compare("forward", "output of each block", found, expected, 1e-5, saved=SAVED),
            self.compare("metric", "images counted right", {"correct": correct}, {"correct": reference_correct}, 0.0),
        ]

    def images(self, size, count):
        """(float32 [count, 3, size, size], labels int64 [count]) of the test set, as the model sees them."""
        config = load_config(None, [*SETTINGS, *self.data, f"model.image_size={size}", f"eval.batch_size={count}"])
        task = ImageClassification(config)
        batch = next(iter(task.batches("test")))
        return task.model_input(batch), batch[-2].numpy()

    def loss(self):
        """Loss, cross entropy, KL and both gradients of the loss alone, on the same logits."""
        rng = np.random.default_rng(0)
        p, q = rng.normal(0, 3, [2, 64, 100]).astype("float32")
        label = rng.integers(0, 100, 64)
        ours = [paddle.to_tensor(x, stop_gradient=False) for x in (p, q)]
        theirs = [torch.from_numpy(x).requires_grad_() for x in (p, q)]
        terms = RDropLoss(9.6, "batchmean").terms(*ours, paddle.to_tensor(label))
        expected_terms = torch_reference.rdrop_loss(*theirs, torch.from_numpy(label), 9.6)
        terms[0].backward()
        expected_terms[0].backward()
        names = ("loss", "ce", "kl")
        found = {name: term.numpy() for name, term in zip(names, terms)}
        expected = {name: term.detach().numpy() for name, term in zip(names, expected_terms)}
        gradients = {f"gradient of {name}": x.grad.numpy() for name, x in zip("pq", ours)}
        expected_gradients = {f"gradient of {name}": x.grad.numpy() for name, x in zip("pq", theirs)}
        return [
            self.compare("loss", "loss, cross entropy, KL", found, expected, 1e-6),
            self.compare("loss gradient", "with respect to p and q", gradients, expected_gradients, 1e-5),
        ]

    def backward(self):
        """Every parameter's gradient of one R-Drop global batch."""
        pair = TrainingPair(self)
        micro_batches, _ = pair.trainer.read()
        pair.trainer.config.train.clip_norm = None  # the raw gradient
        pair.trainer.backward(micro_batches, 1)
        pair.reference_backward(micro_batches, 1)
        found = {name: p.grad.numpy() for name, p in pair.trainer.task.model.named_parameters()}
        expected = torch_reference.in_paddle_layout(pair.reference, lambda p: p.grad.numpy())
        return [self.compare("backward", "gradient of each parameter", found, expected, 1e-4)]

    def training_by_momentum(self):
        """20 R-Drop updates of 4 micro-batches, with momentum, clipping, warm-up and cosine."""
        return self._training("momentum", "learning rate", "training")

    def training_by_adamw(self):
        """The same with AdamW, decay, clipping, warm-up and a straight line."""
        return self._training("adamw", "learning rate, linear", "training, AdamW")

    def _training(self, optimizer, learning_rate, training):
        pair = TrainingPair(self, optimizer)
        found, expected, rates = {}, {}, ([], [])
        for update in range(1, UPDATES + 1):
            rates[0].append(pair.trainer.optimizer.get_lr())
            rates[1].append(pair.optimizer.param_groups[0]["lr"])
            micro_batches, _ = pair.trainer.read()
            pair.masks.update = update
            pair.trainer.step(micro_batches)
            means = pair.trainer.fetch(self.output)
            terms = pair.reference_backward(micro_batches, update)
            pair.reference_step()
            for name in ("loss", "kl"):
                found[f"{name} {update}"], expected[f"{name} {update}"] = np.array(means[name]), np.array(terms[name])
        losses, kls = ([{n: x[n] for n in x if n.startswith(term)} for x in (found, expected)] for term in ("loss", "kl"))
        if min(x.min() for x in kls[1].values()) <= 0:
            raise ValueError("the KL is not positive: the dropout masks do nothing")
        weights = torch_reference.in_paddle_layout(pair.reference, lambda p: p.detach().numpy())
        return [
            self.compare(learning_rate, "each update", *({"lr": np.array(side)} for side in rates), 1e-12),
            self.compare(training, f"loss of each of {UPDATES} updates", *losses, 1e-4),
            self.compare(training, f"KL of each of {UPDATES} updates", *kls, 1e-4),
            self.compare(training, "final weights", model_arrays(pair.trainer.task.model), weights, 1e-4),
        ]

    def features(self):
        """Share of 500 test images whose class is that of most of the 10 nearest of 5,000 training images at 96 px.

        Nearest by the cosine of the features before the head. A look at the whole chain of weights, images and model: wrong
        in any link, it would be near chance.
        """
        config = load_config(
            None, [*SETTINGS, *self.data, "model.image_size=96", "data.images_per_class=50", "data.crop_scale=1"]
        )
        task, _ = self.models(config, reset_head=True)
        train, train_labels = self._features(task, "train", 5000)
        test, test_labels = self._features(task, "test", 500)
        nearest = np.argsort(-(test @ train.T), axis=1)[:, :10]  # [500, 10]
        votes = [np.bincount(train_labels[row]).argmax() for row in nearest]
        return float(np.mean(votes == test_labels))

    def _features(self, task, split, count):
        """(unit vectors [count, D], labels [count]) of the first images of a split; every class is in the first thousands."""
        features, labels = [], []
        hook = task.model.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].numpy()))
        task.model.eval()
        with paddle.no_grad():
            for batch in task.batches(split):
                task.forward(task.model, batch)
                labels.append(batch[-2].numpy())
                if sum(map(len, labels)) >= count:
                    break
        hook.remove()
        vectors = np.concatenate(features)[:count]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.concatenate(labels)[:count]

    def compare(self, check, compared, found, expected, bound, saved=None):
        """The worst tensor as a Row; both sides and the diff log go to the output folder."""
        if found.keys() != expected.keys():
            raise KeyError(f"{check}: {sorted(found.keys() ^ expected.keys())} on one side only")
        differences = {name: relative_difference(found[name], expected[name]) for name in found}
        worst = max(differences, key=differences.get)
        stem = f"{check} {compared}".replace(",", "").replace(" ", "_").lower()
        for side, arrays in (("paddle", found), ("ref", expected)):
            np.save(
                self.output / f"{stem}_{side}.npy", {name: arrays[name][:saved] if saved else arrays[name] for name in found}
            )
        lines = [f"{name}: check passed: {value <= bound}, value: {value:.3e}" for name, value in differences.items()]
        (self.output / f"{stem}_diff.log").write_text("\n".join([*lines, ""]))
        return Row(check, f"{compared} (worst: {worst})" if len(found) > 1 else compared, differences[worst], bound)


def relative_difference(found, expected):
    """max|a - b| / max|b|, and infinity where a shape differs or a value is not finite."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def summary(rows):
    """The rows as a Markdown table."""
    lines = ["| check | compared | max relative difference | bound | |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.check} | {r.compared} | {r.difference:.1e} | {r.bound:.0e} | {'PASS' if r.passed else 'FAIL'} |" for r in rows
    ]
    return "\n".join(lines)
