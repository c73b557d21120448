"""Loading weights into a TransformerEncoder, with a row in the report for every decision."""

from ..errors import UserError
from ..weights.files import read_weight_file
from ..weights.loading import SourceWeights, load_into
from ..weights.report import WeightReport
from . import encoder_claims
from .encoder_names import ANCHOR, from_bert, refuse_other_families

OFFSET_POSITIONS = 514  # of RoBERTa's models, whose first position is the third


def load_weights(model, path, *, reset_head=False, sha256=None, ema=False):
    """Load the weights at `path` into `model` and return the WeightReport.

    Args:
        model: a TransformerEncoder; changed only when nothing is wrong.
        path: a file, folder or index of shards: a BERT's or MiniLM's weights as released with Hugging Face's names
            (.safetensors, .bin) or PaddleNLP's (.pdparams), or this project's own (.safetensors). What a config.json beside
            it tells of the model is held against `model`.
        reset_head: leave the head as it was initialised instead of loading it, to fine-tune from a pretrained model, and the
            pooler too where the file has none.
        sha256: what the file's must be; without it a file of the same name with .sha256 behind it is looked for.
        ema: the moving average of the weights that a training checkpoint holds beside them, instead of them.

    Raises:
        UserError: an unreadable file, another checksum, another kind of model, tensors that do not fit or are not finite, or
            no average.
    """
    encoder_claims.check(path, model, any_pooling=reset_head)
    source = read_weights(path, sha256, ema)
    if reset_head:
        _leave_initial(model, source)
    report = WeightReport(str(path), source.format, source.sha256)
    load_into(model, source, report)
    return report


def read_weights(path, sha256=None, ema=False):
    """The SourceWeights of a file of any of these formats; arguments and errors as of `load_weights`."""
    file = read_weight_file(path, sha256, anchor=ANCHOR, ema=ema)
    refuse_other_families(file.arrays, path)
    if "token_embedding.weight" in file.arrays:
        weights = SourceWeights.as_they_are(f"rdrop_paddle .{file.container}", file.arrays, file.sha256)
    elif (weights := from_bert(file.container, file.arrays, file.sha256)) is None:
        raise UserError(f"{path}: its tensors are those of no BERT ({', '.join(list(file.arrays)[:3]) or 'none'} ...)")
    positions = weights.tensors.get("position_embedding.weight")
    if positions is not None and positions.shape[:1] == (OFFSET_POSITIONS,):
        raise UserError(
            f"{path} is of RoBERTa by its {OFFSET_POSITIONS} positions, and the encoders here are BERT's: take a BERT's"
        )
    weights.refuse_nonfinite(path)
    weights.format = ", ".join([weights.format, *file.notes])
    return weights


def _leave_initial(model, source):
    """Take the head out of SourceWeights, and put the model's own values in the place of it and of a pooler it has not."""
    for name in list(source.tensors):
        if name.startswith("head."):
            source.drop(name, "the head of another task")
        elif name.startswith("pooler.") and model.pooler is None:
            source.drop(name, "the head sees the mean of the tokens")
    for name, parameter in model.state_dict().items():
        if name.startswith(("head.", "pooler.")) and name not in source.tensors:
            source.add(name, parameter.numpy(), "random", "as initialised")
