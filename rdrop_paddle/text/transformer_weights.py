"""Weights of a Transformer and what they cannot do without: their tokens, and settings that no tensor's shape tells."""

from pathlib import Path

from ..errors import UserError
from ..weights import belongings as kept
from ..weights.files import read_weight_file
from ..weights.loading import SourceWeights, load_into
from ..weights.report import WeightReport
from . import bart_names, byte_level, claims
from .tokens import Tokens
from .transformer_sizes import with_numbers

SETTINGS = ("num_heads", "norm", "activation", "positions", "scaled", "tying")  # keys of the section `model`
ANCHOR = r"(?:encoder|decoder)\.layers\.0\.fc1\.weight"


def belongings(tokens, config):
    """{name: JSON value} by Tokens and a TranslationConfig or SummarisationConfig."""
    return {kept.TOKENS: tokens.to_json(), kept.MODEL: {"task": config.task, **settings_of(config)}}


def settings_of(config):
    """{key of the section `model`: value} that weights are kept with, by a TranslationConfig or SummarisationConfig."""
    numbers = with_numbers(config.model)
    return {key: getattr(numbers, key) for key in SETTINGS}


def tokens_of(path, config):
    """The Tokens of the weights at `path`: of their header, or of what lies beside them: tokenizer.json, or BART's files.

    Raises:
        UserError: there are none, they are of another task or other languages than the config's, or its settings are not the
            weights'.
    """
    claims.check_task(path, config.task)
    found = kept.find(path, kept.TOKENS)
    if found and isinstance(found.value, dict) and "format" in found.value:
        tokens = Tokens.from_json(*found)
        if own := claims.kept(path):
            claims.compare(path, settings_of(config), [own])
    else:
        tokens = Tokens(config.languages, 2 * [_of_bart(path, found)])
    here = config.languages
    if tokens.languages != here:
        source, target = tokens.languages
        if config.task == "summarisation":
            raise UserError(f"{path} translates {source} to {target}: give weights of a summariser")
        raise UserError(
            f"{path} translates {source} to {target} and the config {here[0]} to {here[1]}: "
            f"data.source={source} data.target={target}"
        )
    return tokens


def load_weights(model, path, config, *, sha256=None, ema=False):
    """Load the weights at `path` into a Transformer, which changes only when nothing is wrong; the WeightReport.

    Args:
        config: what the model is of; what a BART tells of itself is held against it.
        path: a file, folder or index of shards: this project's own weights (.safetensors), or a BART's as released with
            Hugging Face's names (.safetensors, .bin).
        sha256: what the file's must be; without it a file of the same name with .sha256 behind it is looked for.
        ema: the moving average of the weights that a training checkpoint holds beside them, instead of them.

    Raises:
        UserError: an unreadable file, another checksum, another kind of model, tensors that do not fit or are not finite, or
            no average.
    """
    file = read_weight_file(path, sha256, anchor=ANCHOR, ema=ema)
    source = bart_names.from_bart(file.container, file.arrays, file.sha256, path)
    if source is None:
        source = SourceWeights.as_they_are(f"rdrop_paddle .{file.container}", file.arrays, file.sha256)
    else:
        settings = vars(with_numbers(config.model))
        claims.check(path, settings, bart_names.BART)
        claims.compare(path, settings, [bart_names.implied(path, settings["embed_dim"])])
    source.refuse_nonfinite(path)
    report = WeightReport(str(path), ", ".join([source.format, *file.notes]), source.sha256)
    load_into(model, source, report)
    return report


def _of_bart(path, found):
    """The `tokenizers.Tokenizer` of a BART's tokenizer.json, the Belonging `found`, or of vocab.json and merges.txt."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if found:
        tokenizer = byte_level.from_json(*found, special=byte_level.BART)
    else:
        tokenizer = byte_level.from_folder(folder, special=byte_level.BART)
    if tokenizer is None:
        raise UserError(
            f"{path} has no tokens in its header, and no {kept.TOKENS}.json lies beside it, nor "
            f"{' and '.join(byte_level.FILES)}: put those of its run folder or release there, without which the weights mean "
            "nothing"
        )
    told = kept.read_beside(path, "config.json")
    count = told.value.get("vocab_size") if told and isinstance(told.value, dict) else None
    # the one for CNN/DailyMail was published without an embedding of <mask>, the last token
    return byte_level.first_of(tokenizer, count, path) if isinstance(count, int) else tokenizer
