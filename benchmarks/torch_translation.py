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

    from benchmarks.torch_reference import start_ranks

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = speed_worker.specification()
    rank, ranks = start_ranks()
    config = load_config(chosen["config"], chosen["overrides"])
    once = worker(config, chosen, rank, ranks)
    speed_worker.report(once, rank=rank, ceiling=speed_worker.fastest_product(torch.ones))
    return 0


def worker(config, chosen, rank, ranks):
    """The function that is timed, by a Side as a dictionary."""
    from rdrop_paddle.text.sizes import with_numbers

    numbers = with_numbers(config.model)
    if (numbers.norm, numbers.activation, numbers.positions, numbers.tying) != ("post", "relu", "sinusoidal", "all"):
        raise UserError("torch's side has model.norm=post, activation=relu, positions=sinusoidal and tying=all alone")
    if chosen["evaluation"]:
        if chosen["weights"] is None:
            raise UserError("how long a search takes depends on the weights: give trained ones with --weights")
        return searching(config, numbers, Path(chosen["weights"]), rank, ranks)
    return training(config, numbers, rank, ranks)


def training(config, numbers, rank, ranks):
    """A function that makes an update, with the Transformer and the loss of torch_transformer.py."""
    import torch

    from benchmarks.torch_reference import build_optimizer, step
    from benchmarks.torch_transformer import Transformer, loss_of
    from rdrop_paddle.text.tokens import PADDING

    train = config.train
    tokens, batches = training_batches(config)
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

    return once


def searching(config, numbers, weights, rank, ranks):
    """A function that weighs the references of eval.split and translates it, by transformers' Marian with its cache."""
    import torch
    from safetensors.numpy import load_file

    from benchmarks import torch_marian
    from benchmarks.torch_reference import sum_over_ranks
    from benchmarks.torch_transformer import sinusoids
    from rdrop_paddle.text.tokens import END, FILE, PADDING, Tokens

    tokens = Tokens.read(weights.with_name(FILE))
    names = ("encoder_layers", "decoder_layers", "embed_dim", "ffn_dim", "num_heads", "activation", "max_length")
    sizes = {name: getattr(numbers, name) for name in names}
    model = torch_marian.build_marian(vocabulary=tokens.sizes[0], padding=PADDING, end=END, **sizes)
    model.set_attn_implementation("sdpa")
    torch_marian.load(model, load_file(weights), sinusoids(numbers.max_length, numbers.embed_dim).numpy())
    model.generation_config.bad_words_ids = None  # Marian's own never gives padding, which these weights know of themselves
    decode = config.decode
    settings = dict(num_beams=decode.beam, length_penalty=decode.length_penalty, early_stopping=True, do_sample=False)
    batches, count = evaluation_batches(config, tokens)

    @torch.inference_mode()
    def once():
        loss = torch.zeros([])
        for source, target_in, labels in ([torch.from_numpy(array) for array in batch] for batch in batches[rank::ranks]):
            logits = torch_marian.logits(model, source, target_in)
            loss += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PADDING)
            longest = int(decode.max_length_a * source.shape[1] + decode.max_length_b)
            model.generate(source, attention_mask=(source != PADDING).long(), max_new_tokens=longest, **settings)
        sum_over_ranks([loss])
        return count, 0.0

    return once


def training_batches(config):
    """(Tokens, micro-batches of the training text without end: source, target_in and labels, int64 arrays)"""
    import numpy as np

    from rdrop_paddle.text import batches
    from rdrop_paddle.text.corpora import read_split
    from rdrop_paddle.text.tokens import train_tokens

    data, train = config.data, config.train
    pairs = read_split(data, "train")
    options = dict(vocabulary_size=data.vocabulary_size, lowercase=data.lowercase, moses=data.moses)
    tokens = train_tokens((data.source, data.target), pairs, joint=data.vocabulary == "joint", **options)
    source, target = ended(tokens, pairs)
    fits = [n for n, sides in enumerate(zip(source, target)) if max(map(len, sides)) <= config.model.max_length]
    source, target = [source[n] for n in fits], [target[n] for n in fits]
    lengths = np.asarray([max(map(len, sides)) for sides in zip(source, target)])
    order = batches.training_order(
        lengths, data.max_tokens, accumulation=train.accumulation, seed=train.seed, rank=0, ranks=1, first_update=1
    )
    return tokens, (arrays(source, target, indices) for indices in order)


def evaluation_batches(config, tokens):
    """([source, target_in and labels of each batch of eval.split], how many tokens the labels have)"""
    import numpy as np

    from rdrop_paddle.text import batches
    from rdrop_paddle.text.corpora import read_split

    source, target = ended(tokens, read_split(config.data, config.eval.split))
    lengths = np.asarray([max(map(len, sides)) for sides in zip(source, target)])
    parts = batches.cut(lengths, np.argsort(lengths, kind="stable"), config.decode.max_tokens)
    return [arrays(source, target, indices) for indices in parts[::-1]], sum(map(len, target))


def ended(tokens, pairs):
    """The tokens of both sides, END the last of each."""
    from rdrop_paddle.text.tokens import END

    return [[[*ids, END] for ids in tokens.encode(side, texts)] for side, texts in enumerate(pairs)]


def arrays(source, target, indices):
    """source [N, S], target_in [N, T] and labels [N, T] of a batch."""
    from rdrop_paddle.text import batches
    from rdrop_paddle.text.tokens import END, PADDING

    labels = [target[n] for n in indices]
    sides = ([source[n] for n in indices], [[END, *ids[:-1]] for ids in labels], labels)
    return [batches.padded(side, PADDING) for side in sides]


if __name__ == "__main__":
    command_line.run(main)
