"""The same work in torch for speed.py: the same batches of the same tokens.

python benchmarks/torch_language_modelling.py SPECIFICATION.json FOLDER
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import UserError, command_line, load_config


def main():
    import torch

    from benchmarks.torch_gpt import Gpt, loss_of
    from benchmarks.torch_reference import build_optimizer, start_ranks, step
    from rdrop_paddle.text.language_model_sizes import with_numbers

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = speed_worker.specification()
    rank, ranks = start_ranks()
    config = load_config(chosen["config"], chosen["overrides"])
    numbers, train = with_numbers(config.model), config.train
    if chosen["evaluation"]:
        raise UserError("language modelling is measured in training only: leave --evaluation out")
    settings = ("norm", "activation", "positions", "tied", "scaled", "activation_drop_rate")
    if [getattr(numbers, name) for name in settings] != ["pre", "gelu", "sinusoidal", True, True, 0.0]:
        raise UserError("torch's side has the defaults of model.norm, activation, positions, tied and scaled alone")
    tokens, batches = read(config)
    names = ("layers", "embed_dim", "ffn_dim", "num_heads", "drop_rate", "attention_drop_rate", "max_length")
    model = Gpt(vocabulary=tokens.sizes[0], **{name: getattr(numbers, name) for name in names}).train()
    optimizer = build_optimizer(model.parameters(), train)
    rdrop = dict(passes=config.rdrop.passes, alpha=config.rdrop.alpha)

    def once():
        micro_batches = [[torch.from_numpy(array) for array in next(batches)] for _ in range(train.accumulation)]
        positions = [int((labels >= 0).sum()) for _, labels in micro_batches]
        for batch, count in list(zip(micro_batches, positions))[rank::ranks]:
            (loss_of(model, *batch, **rdrop) * count / sum(positions)).backward()
        step(model, optimizer, train.clip_norm)
        return sum(positions), 0.0

    speed_worker.report(once, rank=rank, ceiling=speed_worker.fastest_product(torch.ones))
    return 0


def read(config):
    """(Tokens, micro-batches of the training text without end: tokens and labels, int64 arrays)"""
    from rdrop_paddle.text import batches
    from rdrop_paddle.text.plain_text import read_split
    from rdrop_paddle.text.token_stream import arrays_of, stream_of, windows_of
    from rdrop_paddle.text.tokens import train_tokens

    data, train = config.data, config.train
    if data.vocabulary != "bpe":
        raise UserError("torch's side has data.vocabulary=bpe alone")
    lines = read_split(data, "train")
    options = dict(vocabulary_size=data.vocabulary_size, lowercase=data.lowercase)
    tokens = train_tokens(["text"], [lines], joint=True, **options)
    stream = stream_of(lines, tokens.ended(0, lines), tokens.end)
    windows = windows_of(stream, data.tokens_per_sample, by_line=data.break_mode == "line")
    order = batches.training_order(
        windows.lengths(), data.max_tokens, accumulation=train.accumulation, seed=train.seed, rank=0, ranks=1, first_update=1
    )
    return tokens, (arrays_of(stream, windows, indices) for indices in order)


if __name__ == "__main__":
    command_line.run(main)
