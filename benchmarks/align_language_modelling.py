"""The checks of Paddle's paper-reproduction guide for language modelling: this package against transformers' GPT-2.

On War and Peace where it is under RDROP_DATA, on made sentences otherwise; the weights are random.
"""

import itertools
import tempfile

import numpy as np
import paddle
import torch

from rdrop_paddle import load_config
from rdrop_paddle.config import data_root
from rdrop_paddle.console import say
from rdrop_paddle.durability.checkpoint import model_arrays
from rdrop_paddle.text.language_model_sizes import with_numbers
from rdrop_paddle.text.language_modelling import LanguageModelling
from rdrop_paddle.text.token_stream import IGNORED

from . import torch_gpt2
from .align_translation import write_made_texts
from .comparison import Comparison
from .training_pair import DROP_RATE, UPDATES, Masks, TrainingPair, with_biases_of_keys_among_others

SETTINGS = [
    "task=language_modelling",
    "model.name=custom",
    "model.layers=4",
    "model.embed_dim=128",
    "model.ffn_dim=256",
    "model.num_heads=4",
    "model.activation=gelu_tanh",
    "model.positions=learned",
    "model.scaled=false",
    f"model.drop_rate={DROP_RATE}",
    "model.attention_drop_rate=0",
    "model.max_length=64",
    "data.name=war_and_peace",
    "data.tokens_per_sample=32",
    "data.vocabulary_size=2000",
    "data.max_tokens=256",
    f"train.steps={UPDATES}",
    "train.warmup_steps=5",
    "train.warmup_init_lr=0",
    "train.accumulation=2",
    "train.lr=1e-3",
    "train.clip_norm=0.5",
    "train.epsilon=1e-6",  # with less, gradients of almost nothing make whole steps of their rounding
    "decode.max_length=20",
    "eval.split=test",
    "eval.context=16",
]


class LanguageModellingAlignment(Comparison):
    """Both models with the same random weights, and the folder that the results go to."""

    def __init__(self, output):
        super().__init__(output)
        self.settings = [*SETTINGS]
        if (data_root() / "war-and-peace").is_dir():
            self.inputs = "random small GPT-2, War and Peace"
        else:
            self.inputs = "random small GPT-2, made sentences"
            self.texts = tempfile.TemporaryDirectory()  # it goes with this object
            write_made_texts(self.texts.name, ["txt"])
            self.settings += ["data.name=folder", f"data.path={self.texts.name}", "data.vocabulary_size=100"]

    def run(self):
        """All checks, as rows."""
        rows = []
        for check in (self.forward, self.backward, self.training):
            say(f"comparing: {check.__name__} of language modelling")
            rows += check()
        return rows

    def models(self):
        """(config, this package's task, torch's model), of the same weights."""
        config = load_config(None, self.settings)
        paddle.seed(0)
        task = LanguageModelling(config)
        rng = np.random.default_rng(0)
        for parameter in task.model.parameters():  # none at its initial value where that is 0 or 1
            if parameter.ndim == 1:
                parameter.set_value(parameter.numpy() + rng.normal(0, 0.02, parameter.shape).astype("float32"))
        numbers = with_numbers(config.model)
        sizes = {name: getattr(numbers, name) for name in ("layers", "embed_dim", "ffn_dim", "num_heads", "max_length")}
        reference = torch_gpt2.build_gpt2(vocabulary=task.tokens.sizes[0], **sizes)
        torch_gpt2.load(reference, model_arrays(task.model))
        return config, task, reference

    def forward(self):
        """Logits of the first windows of the test split."""
        _, task, reference = self.models()
        tokens, labels, _ = next(task.batches("test"))
        task.model.eval()
        with paddle.no_grad(), torch.no_grad():
            found = task.model(tokens).numpy()
            expected = reference(torch.from_numpy(tokens.numpy())).logits.numpy()
        kept = labels.numpy() != IGNORED
        return [
            self.compare("language modelling, forward", "logits", {"logits": found[kept]}, {"logits": expected[kept]}, 1e-5)
        ]

    def backward(self):
        """Every parameter's gradient of one R-Drop global batch."""
        gradients = self.training_pair().gradients()
        return [self.compare("language modelling, backward", "gradient of each parameter", *gradients, 1e-4)]

    def training(self):
        """20 R-Drop updates of 2 micro-batches, with AdamW, decay, clipping, warm-up and inverse square root."""
        names = ("learning rate, inverse_sqrt, language modelling", "language modelling, training, AdamW")
        return self.training_pair().train(self, *names)

    def training_pair(self):
        config, task, reference = self.models()
        masks = Masks()
        _put_masks(task.model.decoder, masks)
        torch_gpt2.inject_masks(reference, masks.for_torch)
        names = [name for name, _ in task.model.named_parameters()]

        def reference_forward(batch):
            tokens, labels = (torch.from_numpy(tensor.numpy()) for tensor in batch[:-1])
            kept = labels != IGNORED
            return reference(tokens).logits[kept], labels[kept]

        def ours(read):
            return with_biases_of_keys_among_others({name: read(p) for name, p in task.model.named_parameters()})

        def theirs(read):
            found = torch_gpt2.as_named_here(reference, names, lambda p: torch.as_tensor(read(p)))
            return with_biases_of_keys_among_others(found)

        return TrainingPair(task, reference, masks, config, reference_forward=reference_forward, ours=ours, theirs=theirs)


def _put_masks(decoder, masks):
    """In the places of dropout, counted as by torch_gpt2.inject_masks."""
    site = itertools.count()
    decoder.dropout = masks.layer(next(site))
    for layer in decoder.layers:
        layer.self_attn_dropout, layer.final_dropout = masks.layer(next(site)), masks.layer(next(site))
