"""The five checks of Paddle's paper-reproduction guide for image classification, and a look at the features.

This package against the torch reference; real weights and images are used where they are, random weights and digits otherwise.
"""

import functools
import tempfile

import numpy as np
import paddle
import torch

from rdrop_paddle import load_config
from rdrop_paddle.config import data_root
from rdrop_paddle.console import say
from rdrop_paddle.loss import RDropLoss
from rdrop_paddle.vision.architectures import ARCHITECTURES
from rdrop_paddle.vision.task import ImageClassification
from rdrop_paddle.vision.weights import load_weights

from . import torch_reference
from .comparison import Comparison
from .training_pair import DROP_RATE, UPDATES, Masks, TrainingPair

WEIGHTS = "Ti_16-i21k-imagenet2012-res_224.npz"
ARCHIVE = "cifar-100-python.tar.gz"
SAVED = 4  # images whose block outputs are written to disk


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
        "train.lr=5e-5",  # rounding grows with the rate: at 1e-4 to the bound, at 1e-3 past it with random weights too
        "train.epsilon=1e-6",  # with less, gradients of almost nothing make whole steps of their rounding
    ],
}


class Alignment(Comparison):
    """Both models with the same weights, and the folder that the results go to."""

    def __init__(self, output):
        super().__init__(output)
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
        return [self.compare("backward", "gradient of each parameter", *self.training_pair("momentum").gradients(), 1e-4)]

    def training_by_momentum(self):
        """20 R-Drop updates of 4 micro-batches, with momentum, clipping, warm-up and cosine."""
        return self.training_pair("momentum").train(self, "learning rate", "training")

    def training_by_adamw(self):
        """The same with AdamW, decay, clipping, warm-up and a straight line."""
        return self.training_pair("adamw").train(self, "learning rate, linear", "training, AdamW")

    def training_pair(self, optimizer):
        """The TrainingPair with one of OPTIMIZERS, at 96 px."""
        settings = [*SETTINGS, *OPTIMIZERS[optimizer], *self.data, "model.image_size=96", f"model.drop_rate={DROP_RATE}"]
        config = load_config(None, settings)
        task, reference = self.models(config, reset_head=True)
        masks = Masks()
        task.model.pos_drop = masks.layer(0)
        for i, block in enumerate(task.model.blocks):
            block.mlp.drop1, block.mlp.drop2 = masks.layer(2 * i + 1), masks.layer(2 * i + 2)
        torch_reference.inject_masks(reference, masks.for_torch)

        def reference_forward(batch):
            pixels = torch.from_numpy(task.model_input(batch).numpy())
            return reference(pixels).logits, torch.from_numpy(batch[-2].numpy())

        def ours(read):
            return {name: read(parameter) for name, parameter in task.model.named_parameters()}

        theirs = functools.partial(torch_reference.in_paddle_layout, reference)
        return TrainingPair(task, reference, masks, config, reference_forward=reference_forward, ours=ours, theirs=theirs)

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
