"""The same work in torch for speed.py: the same batches of the same tokens, filled up to the longest of each.

python benchmarks/torch_understanding.py SPECIFICATION.json FOLDER
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import UserError, command_line, load_config


def main():
    import numpy as np
    import torch

    from benchmarks.torch_bert import Bert
    from benchmarks.torch_reference import build_optimizer, rdrop_loss, start_ranks, step, sum_over_ranks
    from benchmarks.understanding import model_numbers, read
    from rdrop_paddle.text.batches import padded
    from rdrop_paddle.training import sample_order

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = speed_worker.specification()
    rank, ranks = start_ranks()
    config = load_config(chosen["config"], chosen["overrides"])
    train, evaluates = config.train, chosen["evaluation"]
    if config.data.labels_are_numbers:
        raise UserError("torch's side has classes alone")
    tokens, ids, types, labels = read(config, config.eval.split if evaluates else "train")
    sizes = dict(vocabulary=tokens.size, padding=tokens.padding, classes=labels.max() + 1)
    model = Bert(**sizes, **model_numbers(config)).train(not evaluates)
    lengths = np.asarray([*map(len, ids)])

    def tensors(indices):
        sides = ((ids, tokens.padding), (types, 0))
        padded_sides = [torch.from_numpy(padded([side[n] for n in indices], filling)) for side, filling in sides]
        return padded_sides, torch.from_numpy(labels[indices])

    @torch.inference_mode()
    def evaluation():
        longest_first = np.argsort(-lengths, kind="stable")
        correct = 0
        for start in range(rank * config.eval.batch_size, len(ids), ranks * config.eval.batch_size):
            given, label = tensors(longest_first[start : start + config.eval.batch_size])
            correct += (model(*given).argmax(dim=-1) == label).sum()
        sum_over_ranks([correct])
        return len(ids), 0.0

    share = train.batch_size // ranks
    micro_batch = min(chosen["torch_micro_batch"] or share, share)
    cut = dict(batch_size=train.batch_size, micro_batch_size=micro_batch, rank=rank, ranks=ranks, lengths=lengths)
    order = sample_order.training_order(len(ids), train.seed, first_update=1, **cut)
    optimizer = build_optimizer(model.parameters(), train)

    def update():
        for _ in range(share // micro_batch):
            given, label = tensors(next(order)[1])
            logits = model(*(side.repeat(config.rdrop.passes, 1) for side in given)).chunk(config.rdrop.passes)
            loss, *_ = rdrop_loss(logits[0], logits[-1], label, config.rdrop.alpha)  # of one pass the cross entropy
            (loss * len(label) / train.batch_size).backward()
        step(model, optimizer, train.clip_norm)
        return train.batch_size, 0.0

    once = evaluation if evaluates else update
    speed_worker.report(once, rank=rank, ceiling=speed_worker.fastest_product(torch.ones))
    return 0


if __name__ == "__main__":
    command_line.run(main)
