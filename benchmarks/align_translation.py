"""The checks of Paddle's paper-reproduction guide for translation: this package against transformers' Marian.

On Multi30k where it is under RDROP_DATA, on made sentences otherwise; the weights are random.
"""

import itertools
import tempfile

import numpy as np
import paddle
import torch

from rdrop_paddle import FusedLinearRDropLoss
from rdrop_paddle.config import data_root
from rdrop_paddle.text.tokens import END, PADDING
from rdrop_paddle.text.transformer_sizes import with_numbers
from rdrop_paddle.text.translation import Translation

from . import torch_bart, torch_reference
from .text_alignment import SMALL_UPDATES, TextAlignment, write_made_texts

SETTINGS = [
    *SMALL_UPDATES,
    "task=translation",
    "model.name=tiny",
    "data.sentences=4000",
    "data.vocabulary_size=2000",
    "data.max_tokens=256",
    "train.accumulation=2",
    "train.lr=1e-3",
    "train.weight_decay=0.01",
]


class TranslationAlignment(TextAlignment):
    """Trained with GELU: at ReLU's kink rounding switches units on and off, and both sides are as far from float64 as from
    each other."""

    name, task, independent, ignored = "translation", Translation, torch_bart, PADDING
    learning_rate, of_training = "learning rate, inverse_sqrt", ("model.activation=gelu",)
    checks = ("forward", "loss", "backward", "training")

    def __init__(self, output):
        super().__init__(output)
        self.settings = [*SETTINGS]
        if (data_root() / "multi30k" / "train.de").exists():
            self.inputs = "random tiny Transformer, Multi30k"
        else:
            self.inputs = "random tiny Transformer, made sentences"
            self.texts = tempfile.TemporaryDirectory()  # it goes with this object
            write_made_texts(self.texts.name, ["de", "en"])
            own = ["data.name=folder", "data.sentences=null", "data.vocabulary_size=100"]
            self.settings += [*own, f"data.path={self.texts.name}"]

    def build(self, task):
        reference = torch_bart.build_marian(**torch_bart_numbers(task))
        torch_bart.load_positions(reference, task.model.encoder.embed_positions.numpy())
        return reference

    def logits(self, reference, source, target_in):
        return torch_bart.logits(reference, source, target_in)

    def put_masks(self, model, masks):
        put_masks(model, masks)

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


def torch_bart_numbers(task):
    """What torch_bart.py builds the model of a task from one text to another by."""
    numbers = with_numbers(task.config.model)
    names = ("encoder_layers", "decoder_layers", "embed_dim", "ffn_dim", "num_heads", "activation", "max_length")
    return dict(vocabulary=task.tokens.sizes[0], padding=PADDING, end=END) | {name: getattr(numbers, name) for name in names}


def put_masks(model, masks):
    """In the places of dropout, counted as by torch_bart.inject_masks."""
    site = itertools.count()
    for side in (model.encoder, model.decoder):
        side.dropout = masks.layer(next(site))
        for layer in side.layers:
            for name in ("self_attn_dropout", "encoder_attn_dropout", "final_dropout"):
                if hasattr(layer, name):
                    setattr(layer, name, masks.layer(next(site)))
