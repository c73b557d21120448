"""The same work in torch for speed.py: the same batches of the same tokens.

python benchmarks/torch_translation.py SPECIFICATION.json FOLDER
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
        if chosen["weights"] is None:
            raise UserError("how long a search takes depends on the weights: give trained ones with --weights")
        return searching(config, Path(chosen["weights"]), rank, ranks)
    model, batches = model_and_batches(config)
    return training(model, batches, PADDING, config, rank, ranks)


def model_and_batches(config):
    """(Transformer, micro-batches of the training text without end: source, target_in and labels, int64 arrays)"""
    from rdrop_paddle.text.corpora import read_split
    from rdrop_paddle.text.tokens import train_tokens

    data, pairs = config.data, read_split(config.data, "train")
    options = dict(vocabulary_size=data.vocabulary_size, lowercase=data.lowercase, moses=data.moses)
    tokens = train_tokens(config.languages, pairs, joint=True, **options)
    return model_of(config, tokens), training_batches(config, *ended(tokens, pairs))


def model_of(config, tokens):
    """The Transformer of torch_transformer.py with a config's numbers."""
    from benchmarks.torch_transformer import Transformer, settings_of
    from rdrop_paddle.text.transformer_sizes import with_numbers

    alone = dict(norm="post", tying="all", activation_drop_rate=0.0, weights="")
    settings = settings_of(with_numbers(config.model), **alone)
    return Transformer(vocabulary=tokens.sizes[0], padding=tokens.padding, **settings)


def searching(config, weights, rank, ranks):
    """A function that weighs the references of eval.split and translates it, by transformers' Marian with its cache."""
    import torch
    from safetensors.numpy import load_file

    from benchmarks import torch_bart
    from benchmarks.torch_reference import sum_over_ranks
    from benchmarks.torch_transformer import sinusoids
    from rdrop_paddle.text.tokens import END, FILE, PADDING, Tokens
    from rdrop_paddle.text.transformer_sizes import with_numbers

    numbers = with_numbers(config.model)
    if (numbers.norm, numbers.positions, numbers.tying) != ("post", "sinusoidal", "all"):
        raise UserError("torch's search has model.norm=post, positions=sinusoidal and tying=all alone")
    tokens = Tokens.read(weights.with_name(FILE))
    names = ("encoder_layers", "decoder_layers", "embed_dim", "ffn_dim", "num_heads", "activation", "max_length")
    sizes = {name: getattr(numbers, name) for name in names}
    model = torch_bart.build_marian(vocabulary=tokens.sizes[0], padding=PADDING, end=END, **sizes)
    model.set_attn_implementation("sdpa")
    torch_bart.load(model, load_file(weights))
    torch_bart.load_positions(model, sinusoids(numbers.max_length, numbers.embed_dim).numpy())
    model.generation_config.bad_words_ids = None  # Marian's own never gives padding, which these weights know of themselves
    decode = config.decode
    settings = dict(num_beams=decode.beam, length_penalty=decode.length_penalty, early_stopping=True, do_sample=False)
    batches, count = evaluation_batches(config, tokens)

    @torch.inference_mode()
    def once():
        loss = torch.zeros([])
        for source, target_in, labels in ([torch.from_numpy(array) for array in batch] for batch in batches[rank::ranks]):
            logits = torch_bart.logits(model, source, target_in)
            loss += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PADDING)
            longest = int(decode.max_length_a * source.shape[1] + decode.max_length_b)
            model.generate(source, attention_mask=(source != PADDING).long(), max_new_tokens=longest, **settings)
        sum_over_ranks([loss])
        return count, 0.0

    return once


def training_batches(config, source, target):
    """Micro-batches of the tokens of both sides without end: source, target_in and labels, int64 arrays."""
    import numpy as np

    from rdrop_paddle.text import batches

    fits = [n for n, sides in enumerate(zip(source, target)) if max(map(len, sides)) <= config.model.max_length]
    source, target = ([side[n] for n in fits] for side in (source, target))
    lengths = np.asarray([max(map(len, sides)) for sides in zip(source, target)])
    cut = dict(accumulation=config.train.accumulation, seed=config.train.seed, rank=0, ranks=1, first_update=1)
    order = batches.training_order(lengths, config.data.max_tokens, **cut)
    return (arrays(source, target, indices) for indices in order)


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
    return [list(tokens.ended(side, texts)) for side, texts in enumerate(pairs)]


def arrays(source, target, indices):
    """source [N, S], target_in [N, T] and labels [N, T] of a batch."""
    from rdrop_paddle.text import batches
    from rdrop_paddle.text.tokens import END, PADDING

    labels = [target[n] for n in indices]
    sides = ([source[n] for n in indices], [[END, *ids[:-1]] for ids in labels], labels)
    return [batches.padded(side, PADDING) for side in sides]


if __name__ == "__main__":
    command_line.run(lambda: speed_worker.run_in_torch(worker))
