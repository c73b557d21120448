"""Weights of a Transformer and what they cannot do without: their tokens, and settings that no tensor's shape tells."""

from ..errors import UserError
from ..weights import belongings as kept
from ..weights.files import read_weight_file
from ..weights.loading import SourceWeights, load_into
from ..weights.report import WeightReport
from .sizes import with_numbers
from .tokens import Tokens

TOKENS, MODEL = "tokenizer", "model"  # what belongs to the weights, by its name
SETTINGS = ("num_heads", "norm", "activation", "positions", "tying")  # keys of the section `model`
ANCHOR = r"(?:encoder|decoder)\.layers\.0\.fc1\.weight"


def belongings(tokens, config):
    """{name: JSON value} by Tokens and a TranslationConfig."""
    numbers = with_numbers(config.model)
    return {TOKENS: tokens.to_json(), MODEL: {key: getattr(numbers, key) for key in SETTINGS}}


def tokens_of(path, config):
    """The Tokens of the weights at `path`.

    Raises:
        UserError: there are none, they are of other languages than the config's, or its settings are not the weights'.
    """
    found = kept.find(path, TOKENS)
    if found is None:
        raise UserError(
            f"{path} has no tokens in its header, and no {TOKENS}.json lies beside it: "
            "put the one of the run folder there, without which the weights mean nothing"
        )
    tokens = Tokens.from_json(*found)
    here = (config.data.source, config.data.target)
    if tokens.languages != here:
        source, target = tokens.languages
        raise UserError(
            f"{path} translates {source} to {target} and the config {here[0]} to {here[1]}: "
            f"data.source={source} data.target={target}"
        )
    _check_settings(path, config)
    return tokens


def load_weights(model, path, *, sha256=None, ema=False):
    """Load the weights at `path`, of this project's format, into a Transformer; the WeightReport. Arguments as in vision's.

    Raises:
        UserError: an unreadable file, another checksum, tensors that do not fit or are not finite, or no average.
    """
    file = read_weight_file(path, sha256, anchor=ANCHOR, ema=ema)
    label = ", ".join([f"rdrop_paddle .{file.container}", *file.notes])
    source = SourceWeights.as_they_are(label, file.arrays, file.sha256)
    source.refuse_nonfinite(path)
    report = WeightReport(str(path), source.format, source.sha256)
    load_into(model, source, report)
    return report


def _check_settings(path, config):
    found, numbers = kept.find(path, MODEL), with_numbers(config.model)
    told, source = found or ({}, "")
    differing = [key for key in SETTINGS if key in told and told[key] != getattr(numbers, key)]
    if differing:
        here = ", ".join(f"model.{key} is {getattr(numbers, key)}" for key in differing)
        advice = " ".join(f"model.{key}={told[key]}" for key in differing)
        raise UserError(f"{here}, but {source} was trained with {advice}: give these")
