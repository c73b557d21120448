"""The same work in torch for speed.py: the same batches of the same tokens.

python benchmarks/torch_translation.py SPECIFICATION.json FOLDER
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import UserError, command_line, load_config


def main():
    import torch

    from benchmarks.torch_reference import build_optimizer, start_ranks, step
    from benchmarks.torch_transformer import Transformer, loss_of
    from rdrop_paddle.text.sizes import with_numbers
    from rdrop_paddle.text.tokens import PADDING

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = speed_worker.specification()
    rank, ranks = start_ranks()
    config = load_config(chosen["config"], chosen["overrides"])
    numbers, train = with_numbers(config.model), config.train
    if chosen["evaluation"]:
        raise UserError("translation is measured in training only: leave --evaluation out")
    if (numbers.norm, numbers.activation, numbers.positions, numbers.tying) != ("post", "relu", "sinusoidal", "all"):
        raise UserError("torch's side has model.norm=post, activation=relu, positions=sinusoidal and tying=all alone")
    tokens, batches = read(config)
    names = ("encoder_layers", "decoder_layers", "embed_dim", "ffn_dim", "num_heads", "drop_rate", "max_length")
    sizes = {name: getattr(numbers, name) for name in names}
    model = Transformer(vocabulary=tokens.sizes[0], padding=PADDING, **sizes).train()
    optimizer = build_optimizer(model.parameters(), train)
    rdrop = dict(passes=config.rdrop.passes, alpha=config.rdrop.alpha, label_smoothing=train.label_smoothing)

    def once():
        micro_batches = [[torch.from_numpy(array) for array in next(batches)] for _ in range(train.accumulation)]
        positions = [int((labels != PADDING).sum()) for _, _, labels in micro_batches]
        for batch, count in list(zip(micro_batches, positions))[rank::ranks]:
            (loss_of(model, *batch, **rdrop) * count / sum(positions)).backward()
        step(model, optimizer, train.clip_norm)
        return sum(positions), 0.0

    speed_worker.report(once, rank=rank, ceiling=speed_worker.fastest_product(torch.ones))
    return 0


def read(config):
    """(Tokens, micro-batches of the training text without end: source, target_in and labels, int64 arrays)"""
    import numpy as np

    from rdrop_paddle.text import batches
    from rdrop_paddle.text.corpora import read_split
    from rdrop_paddle.text.tokens import END, PADDING, train_tokens

    data, train = config.data, config.train
    pairs = read_split(data, "train")
    options = dict(vocabulary_size=data.vocabulary_size, lowercase=data.lowercase, moses=data.moses)
    tokens = train_tokens((data.source, data.target), pairs, joint=data.vocabulary == "joint", **options)
    source, target = ([[*ids, END] for ids in tokens.encode(side, texts)] for side, texts in enumerate(pairs))
    fits = [n for n, sides in enumerate(zip(source, target)) if max(map(len, sides)) <= config.model.max_length]
    source, target = [source[n] for n in fits], [target[n] for n in fits]
    lengths = np.asarray([max(map(len, sides)) for sides in zip(source, target)])
    order = batches.training_order(
        lengths, data.max_tokens, accumulation=train.accumulation, seed=train.seed, rank=0, ranks=1, first_update=1
    )

    def arrays():
        for indices in order:
            labels = [target[n] for n in indices]
            sides = ([source[n] for n in indices], [[END, *ids[:-1]] for ids in labels], labels)
            yield [batches.padded(side, PADDING) for side in sides]

    return tokens, arrays()


if __name__ == "__main__":
    command_line.run(main)
