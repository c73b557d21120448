"""The checks of Paddle's paper-reproduction guide for translation: this package against transformers' Marian.

On Multi30k where it is under RDROP_DATA, on made sentences otherwise; the weights are random.
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import paddle
import torch

from rdrop_paddle import FusedLinearRDropLoss, load_config
from rdrop_paddle.config import data_root
from rdrop_paddle.console import say
from rdrop_paddle.durability.checkpoint import model_arrays
from rdrop_paddle.text.sizes import with_numbers
from rdrop_paddle.text.tokens import END, PADDING
from rdrop_paddle.text.translation import Translation

from . import torch_marian, torch_reference
from .comparison import Comparison
from .training_pair import DROP_RATE, UPDATES, Masks, TrainingPair, with_biases_of_keys_among_others

SETTINGS = [
    "task=translation",
    "model.name=tiny",
    f"model.drop_rate={DROP_RATE}",
    "data.sentences=4000",
    "data.vocabulary_size=2000",
    "data.max_tokens=256",
    f"train.steps={UPDATES}",
    "train.warmup_steps=5",
    "train.accumulation=2",
    "train.lr=1e-3",
    "train.weight_decay=0.01",
    "train.clip_norm=0.5",
    "train.epsilon=1e-6",  # with less, gradients of almost nothing make whole steps of their rounding
    "eval.split=test",
]


class TranslationAlignment(Comparison):
    """Both models with the same random weights, and the folder that the results go to."""

    def __init__(self, output):
        super().__init__(output)
        self.settings = [*SETTINGS]
        if (data_root() / "multi30k" / "train.de").exists():
            self.inputs = "random tiny Transformer, Multi30k"
        else:
            self.inputs = "random tiny Transformer, made sentences"
            self.texts = tempfile.TemporaryDirectory()  # it goes with this object
            write_made_texts(self.texts.name, ["de", "en"])
            self.settings += [
                "data.name=folder",
                f"data.path={self.texts.name}",
                "data.sentences=null",
                "data.vocabulary_size=100",
            ]

    def run(self):
        """All checks, as rows."""
        rows = []
        for check in (self.forward, self.loss, self.backward, self.training):
            say(f"comparing: {check.__name__} of translation")
            rows += check()
        return rows

    def models(self, activation="relu"):
        """(config, this package's task, torch's model), of the same weights."""
        config = load_config(None, [*self.settings, f"model.activation={activation}"])
        paddle.seed(0)
        task = Translation(config)
        rng = np.random.default_rng(0)
        for parameter in task.model.parameters():  # none at its initial value where that is 0 or 1
            if parameter.ndim == 1:
                parameter.set_value(parameter.numpy() + rng.normal(0, 0.02, parameter.shape).astype("float32"))
        numbers = with_numbers(config.model)
        names = ("encoder_layers", "decoder_layers", "embed_dim", "ffn_dim", "num_heads", "activation", "max_length")
        sizes = {name: getattr(numbers, name) for name in names}
        of_tokens = dict(vocabulary=task.tokens.sizes[0], padding=PADDING, end=END)
        reference = torch_marian.build_marian(**sizes, **of_tokens)
        torch_marian.load(reference, model_arrays(task.model), task.model.encoder.embed_positions.numpy())
        return config, task, reference

    def forward(self):
        """Logits of the first test sentences."""
        _, task, reference = self.models()
        source, target_in, labels, _ = next(task.batches("test"))
        task.model.eval()
        with paddle.no_grad(), torch.no_grad():
            found = task.model(source, target_in).numpy()
            expected = torch_marian.logits(reference, *(torch.from_numpy(x.numpy()) for x in (source, target_in))).numpy()
        kept = labels.numpy() != PADDING
        return [self.compare("translation, forward", "logits", {"logits": found[kept]}, {"logits": expected[kept]}, 1e-5)]

    def loss(self):
        """Loss, cross entropy, KL and the gradients of the loss alone, on the same hidden states and projection."""
        rng = np.random.default_rng(0)
        arrays = {"p": rng.normal(size=[300, 32]), "weight": rng.normal(0, 0.3, [2000, 32])}
        arrays["q"] = arrays["p"] + rng.normal(0, 0.3, [300, 32])
        arrays = {name: arrays[name].astype("float32") for name in ("p", "q", "weight")}
        label, mask = rng.integers(0, 2000, 300), rng.random(300) < 0.2
        ours = [paddle.to_tensor(x, stop_gradient=False) for x in arrays.values()]
        theirs = [torch.from_numpy(x).requires_grad_() for x in arrays.values()]
        terms = FusedLinearRDropLoss(2.5, label_smoothing=0.1).terms(*ours, paddle.to_tensor(label), paddle.to_tensor(mask))
        *hidden, weight = theirs
        kept = torch.from_numpy(~mask)
        logits = [(x @ weight.T)[kept] for x in hidden]
        expected_terms = torch_reference.rdrop_loss(*logits, torch.from_numpy(label)[kept], 2.5, label_smoothing=0.1)
        terms[0].backward()
        expected_terms[0].backward()
        names = ("loss", "ce", "kl")
        found = {name: term.numpy() for name, term in zip(names, terms)}
        expected = {name: term.detach().numpy() for name, term in zip(names, expected_terms)}
        gradients, expected_gradients = ({name: x.grad.numpy() for name, x in zip(arrays, side)} for side in (ours, theirs))
        return [
            self.compare("translation, loss", "loss, cross entropy, KL", found, expected, 1e-6),
            self.compare("translation, loss gradient", "hidden states and projection", gradients, expected_gradients, 1e-5),
        ]

    def backward(self):
        """Every parameter's gradient of one R-Drop global batch."""
        gradients = self.training_pair().gradients()
        return [self.compare("translation, backward", "gradient of each parameter", *gradients, 1e-4)]

    def training(self):
        """20 R-Drop updates of 2 micro-batches, with AdamW, decay, clipping, warm-up and inverse square root.

        With GELU: at ReLU's kink rounding switches units on and off, and both sides are as far from float64 as from each other.
        """
        return self.training_pair("gelu").train(self, "learning rate, inverse_sqrt", "translation, training, AdamW")

    def training_pair(self, activation="relu"):
        config, task, reference = self.models(activation)
        masks = Masks()
        _put_masks(task.model, masks)
        torch_marian.inject_masks(reference, masks.for_torch)
        names = [name for name, _ in task.model.named_parameters()]

        def reference_forward(batch):
            source, target_in, labels = (torch.from_numpy(tensor.numpy()) for tensor in batch[:-1])
            kept = labels != PADDING
            return torch_marian.logits(reference, source, target_in)[kept], labels[kept]

        def ours(read):
            return with_biases_of_keys_among_others({name: read(p) for name, p in task.model.named_parameters()})

        def theirs(read):
            return with_biases_of_keys_among_others(torch_marian.in_paddle_layout(reference, names, read))

        return TrainingPair(task, reference, masks, config, reference_forward=reference_forward, ours=ours, theirs=theirs)


def _put_masks(model, masks):
    """In the places of dropout, counted as by torch_marian.inject_masks."""
    site = itertools.count()
    for side in (model.encoder, model.decoder):
        side.dropout = masks.layer(next(site))
        for layer in side.layers:
            for name in ("self_attn_dropout", "encoder_attn_dropout", "final_dropout"):
                if hasattr(layer, name):
                    setattr(layer, name, masks.layer(next(site)))


def write_made_texts(folder, endings):
    """Files train, val and test of made sentences, 3 to 12 words each, with each of the `endings`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 20), ("test", 20)):
        for ending in endings:
            words = [rng.integers(0, 60, rng.integers(3, 13)) for _ in range(count)]
            lines = [" ".join(f"{ending}{number}" for number in sentence) for sentence in words]
            (Path(folder) / f"{split}.{ending}").write_text("".join(f"{line}\n" for line in lines))
