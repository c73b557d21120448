"""The checks of Paddle's paper-reproduction guide for language modelling: this package against transformers' GPT-2.

On War and Peace where it is under RDROP_DATA, on made sentences otherwise; the weights are random.
"""

import itertools
import tempfile

from rdrop_paddle.config import data_root
from rdrop_paddle.text.language_model_sizes import with_numbers
from rdrop_paddle.text.language_modelling import LanguageModelling
from rdrop_paddle.text.token_stream import IGNORED

from . import torch_gpt2
from .text_alignment import SMALL_UPDATES, TextAlignment, write_made_texts

SETTINGS = [
    *SMALL_UPDATES,
    "task=language_modelling",
    "model.name=custom",
    "model.layers=4",
    "model.embed_dim=128",
    "model.ffn_dim=256",
    "model.num_heads=4",
    "model.activation=gelu_tanh",
    "model.positions=learned",
    "model.scaled=false",
    "model.attention_drop_rate=0",
    "model.max_length=64",
    "data.name=war_and_peace",
    "data.tokens_per_sample=32",
    "data.vocabulary_size=2000",
    "data.max_tokens=256",
    "train.warmup_init_lr=0",
    "train.accumulation=2",
    "train.lr=1e-3",
    "decode.max_length=20",
    "eval.context=16",
]


class LanguageModellingAlignment(TextAlignment):
    name, task, independent, ignored = "language modelling", LanguageModelling, torch_gpt2, IGNORED
    learning_rate = "learning rate, inverse_sqrt, language modelling"

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

    def build(self, task):
        numbers = with_numbers(task.config.model)
        sizes = {name: getattr(numbers, name) for name in ("layers", "embed_dim", "ffn_dim", "num_heads", "max_length")}
        return torch_gpt2.build_gpt2(vocabulary=task.tokens.sizes[0], **sizes)

    def logits(self, reference, tokens):
        return reference(tokens).logits

    def put_masks(self, model, masks):
        """In the places of dropout, counted as by torch_gpt2.inject_masks."""
        site = itertools.count()
        model.decoder.dropout = masks.layer(next(site))
        for layer in model.decoder.layers:
            layer.self_attn_dropout, layer.final_dropout = masks.layer(next(site)), masks.layer(next(site))
