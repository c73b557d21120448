"""The same work in torch for speed.py: the same batches of the same tokens.

python benchmarks/torch_language_modelling.py SPECIFICATION.json FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import UserError, command_line


def worker(config, chosen, rank, ranks):
    """The function that is timed, by a Side as a dictionary."""
    from benchmarks.torch_transformer import training
    from rdrop_paddle.text.token_stream import IGNORED

    if chosen["evaluation"]:
        raise UserError("language modelling is measured in training only: leave --evaluation out")
    model, batches = model_and_batches(config)
    return training(model, batches, IGNORED, config, rank, ranks)


def model_and_batches(config):
    """(LanguageModel, micro-batches of the training text without end: tokens and labels, int64 arrays)"""
    from benchmarks.torch_transformer import LanguageModel, settings_of
    from rdrop_paddle.text import batches
    from rdrop_paddle.text.language_model_sizes import with_numbers
    from rdrop_paddle.text.plain_text import read_split
    from rdrop_paddle.text.token_stream import arrays_of, stream_of, windows_of
    from rdrop_paddle.text.tokens import train_tokens

    data, train = config.data, config.train
    settings = settings_of(with_numbers(config.model), norm="pre", tied=True, activation_drop_rate=0.0, weights="")
    if data.vocabulary != "bpe":
        raise UserError("torch's side has data.vocabulary=bpe alone")
    lines = read_split(data, "train")
    tokens = train_tokens(["text"], [lines], joint=True, vocabulary_size=data.vocabulary_size, lowercase=data.lowercase)
    stream = stream_of(lines, tokens.ended(0, lines), tokens.end)
    windows = windows_of(stream, data.tokens_per_sample, by_line=data.break_mode == "line")
    cut = dict(accumulation=train.accumulation, seed=train.seed, rank=0, ranks=1, first_update=1)
    order = batches.training_order(windows.lengths(), data.max_tokens, **cut)
    model = LanguageModel(vocabulary=tokens.sizes[0], **settings)
    return model, (arrays_of(stream, windows, indices) for indices in order)


if __name__ == "__main__":
    command_line.run(lambda: speed_worker.run_in_torch(worker))
