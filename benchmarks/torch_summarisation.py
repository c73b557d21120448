"""The same work in torch for speed.py: the same batches of the same tokens, filled up to the longest of each.

python benchmarks/torch_summarisation.py SPECIFICATION.json FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import UserError, command_line


def worker(config, chosen, rank, ranks):
    """The function that is timed, by a Side as a dictionary."""
    from benchmarks.torch_transformer import training
    from rdrop_paddle.text.tokens import PADDING

    if chosen["evaluation"]:
        raise UserError("summarisation is measured in training only: leave --evaluation out")
    model, batches = model_and_batches(config)
    return training(model, batches, PADDING, config, rank, ranks)


def model_and_batches(config):
    """(Transformer, micro-batches of the training text without end: source, target_in and labels, int64 arrays)"""
    from benchmarks.torch_translation import ended, model_of, training_batches
    from rdrop_paddle.text.summaries import read_split
    from rdrop_paddle.text.tokens import END, train_tokens

    pairs, _ = read_split(config.data, "train")
    options = dict(vocabulary_size=config.data.vocabulary_size, lowercase=config.data.lowercase)
    tokens = train_tokens(config.languages, pairs, joint=True, **options)
    source, target = ended(tokens, pairs)
    longest = config.model.max_length
    source = [ids if len(ids) <= longest else [*ids[: longest - 1], END] for ids in source]
    return model_of(config, tokens), training_batches(config, source, target)


if __name__ == "__main__":
    command_line.run(lambda: speed_worker.run_in_torch(worker))
