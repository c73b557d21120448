"""The checks of Paddle's paper-reproduction guide for summarisation: this package against transformers' BART.

On DialogSum where it is under RDROP_DATA, on made sentences otherwise; the weights are random.
"""

import tempfile

from rdrop_paddle.config import data_root
from rdrop_paddle.text.summarisation import Summarisation
from rdrop_paddle.text.tokens import PADDING

from . import torch_bart
from .align_translation import put_masks, torch_bart_numbers
from .text_alignment import SMALL_UPDATES, TextAlignment, write_made_texts

SETTINGS = [
    *SMALL_UPDATES,
    "task=summarisation",
    "model.name=custom",
    "model.encoder_layers=2",
    "model.decoder_layers=2",
    "model.embed_dim=128",
    "model.ffn_dim=256",
    "model.num_heads=4",
    "model.attention_drop_rate=0",
    "model.max_length=160",
    "data.name=dialogsum",
    "data.vocabulary_size=2000",
    "data.max_tokens=640",
    "train.schedule=linear",
    "train.accumulation=2",
    "train.lr=1e-3",
    "decode.max_tokens=640",
]


class SummarisationAlignment(TextAlignment):
    name, task, independent, ignored = "summarisation", Summarisation, torch_bart, PADDING
    learning_rate = "learning rate, linear, summarisation"

    def __init__(self, output):
        super().__init__(output)
        self.settings = [*SETTINGS]
        if (data_root() / "dialogsum").is_dir():
            self.inputs = "random small BART, DialogSum"
        else:
            self.inputs = "random small BART, made sentences"
            self.texts = tempfile.TemporaryDirectory()  # it goes with this object
            write_made_texts(self.texts.name, ["source", "target"])
            self.settings += ["data.name=folder", f"data.path={self.texts.name}", "data.vocabulary_size=100"]

    def build(self, task):
        return torch_bart.build_bart(**torch_bart_numbers(task))

    def logits(self, reference, source, target_in):
        return torch_bart.logits(reference, source, target_in)

    def put_masks(self, model, masks):
        put_masks(model, masks)
