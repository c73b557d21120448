"""Weights of a language model and what they cannot do without: their tokens, and settings that no tensor's shape tells."""

from ..errors import UserError
from ..weights import belongings as kept
from ..weights.files import read_weight_file
from ..weights.loading import SourceWeights, load_into
from ..weights.report import WeightReport
from .language_model_sizes import with_numbers
from .tokens import Tokens

TOKENS, MODEL = "tokenizer", "model"  # what belongs to the weights, by its name
SETTINGS = ("num_heads", "norm", "activation", "positions", "tied", "scaled")  # keys of the section `model`
ANCHOR = r"decoder\.layers\.0\.fc1\.weight"


def belongings(tokens, config):
    """{name: JSON value} by Tokens and a LanguageModellingConfig."""
    numbers = with_numbers(config.model)
    return {TOKENS: tokens.to_json(), MODEL: {key: getattr(numbers, key) for key in SETTINGS}}


def tokens_of(path):
    found = kept.find(path, TOKENS)
    if found is None:
        raise UserError(
            f"{path} has no tokens in its header, and no {TOKENS}.json lies beside it: "
            "put the one of the run folder there, without which the weights mean nothing"
        )
    return Tokens.from_json(*found, sides=1)


def check(path, config):
    pass


def load_weights(model, path, *, sha256=None, ema=False):
    file = read_weight_file(path, sha256, anchor=ANCHOR, ema=ema)
    label = ", ".join([f"rdrop_paddle .{file.container}", *file.notes])
    source = SourceWeights.as_they_are(label, file.arrays, file.sha256)
    source.refuse_nonfinite(path)
    report = WeightReport(str(path), source.format, source.sha256)
    load_into(model, source, report)
    return report
