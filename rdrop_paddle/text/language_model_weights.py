"""Weights of a language model and what they cannot do without: their tokens, and settings that no tensor's shape tells."""

from pathlib import Path

from ..errors import UserError
from ..weights import belongings as kept
from ..weights.files import read_weight_file
from ..weights.loading import SourceWeights, load_into
from ..weights.report import WeightReport
from . import byte_level, claims, gpt2_names
from .language_model_sizes import with_numbers
from .tokens import Tokens

LANGUAGE = "text"  # what the only side is called in the file of the tokens
ANCHOR = rf"{gpt2_names.ANCHOR}|decoder\.layers\.0\.fc1\.weight"
APART = ("name", "weights", "drop_rate", "attention_drop_rate", "activation_drop_rate")


def settings_of(config):
    """{key of the section `model`: JSON value} that weights are kept with, by a LanguageModellingConfig."""
    settings = {key: value for key, value in vars(with_numbers(config.model)).items() if key not in APART}
    if settings["positions"] == "sinusoidal":  # of which there are as many as one asks for
        del settings["max_length"]
    return settings


def belongings(tokens, config):
    """{name: JSON value} by Tokens and a LanguageModellingConfig."""
    return {kept.TOKENS: tokens.to_json(), kept.MODEL: {"task": config.task, **settings_of(config)}}


def tokens_of(path):
    """The Tokens of the weights at `path`, of their header, or of tokenizer.json or vocab.json and merges.txt beside them.

    Raises:
        UserError: there are none, or they are not of one text.
    """
    if found := kept.find(path, kept.TOKENS):
        if isinstance(found.value, dict) and "format" not in found.value:
            return Tokens([LANGUAGE], [byte_level.from_json(*found)])
        return Tokens.from_json(*found, sides=1)
    tokenizer = byte_level.from_folder(Path(path) if Path(path).is_dir() else Path(path).parent)
    if tokenizer is None:
        raise UserError(
            f"{path} has no tokens in its header, and neither {kept.TOKENS}.json nor {' and '.join(byte_level.FILES)} beside "
            "it: put those of its run folder or release there, without which the weights mean nothing"
        )
    return Tokens([LANGUAGE], [tokenizer])


def load_weights(model, path, config, *, sha256=None, ema=False):
    """Load the weights at `path` into a LanguageModel, which changes only when nothing is wrong; the WeightReport.

    Args:
        config: the LanguageModellingConfig that the model is of; what the weights tell of themselves is held against it.
        path: a file, folder or index of shards: GPT-2's weights as released with Hugging Face's names (.safetensors, .bin),
            or this project's own (.safetensors).
        sha256: what the file's must be; without it a file of the same name with .sha256 behind it is looked for.
        ema: the moving average of the weights that a training checkpoint holds beside them, instead of them.

    Raises:
        UserError: an unreadable file, another checksum, another kind of model or other settings, tensors that do not fit or
            are not finite, or no average.
    """
    settings = settings_of(config)
    claims.check(path, settings, gpt2_names.GPT2)
    file = read_weight_file(path, sha256, anchor=ANCHOR, ema=ema)
    source = gpt2_names.from_gpt2(file.container, file.arrays, file.sha256)
    if source is not None:
        claims.compare(path, settings, [gpt2_names.implied(path, settings["embed_dim"])])
    elif "embedding.weight" in file.arrays:
        source = SourceWeights.as_they_are(f"rdrop_paddle .{file.container}", file.arrays, file.sha256)
    else:
        raise UserError(f"{path}: its tensors are those of no GPT-2 ({', '.join(list(file.arrays)[:3]) or 'none'} ...)")
    source.refuse_nonfinite(path)
    report = WeightReport(str(path), ", ".join([source.format, *file.notes]), source.sha256)
    load_into(model, source, report)
    return report
