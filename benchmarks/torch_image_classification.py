"""The same work in torch for speed.py: the same images, resized as one batch and not cropped.

python benchmarks/torch_image_classification.py SPECIFICATION.json FOLDER
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import command_line, load_config

EVALUATION_BATCHES = 4


def main():
    import numpy as np
    import torch

    from benchmarks.image_classification import model_numbers
    from benchmarks.torch_reference import Vit, build_optimizer, count_correct, resize, start_ranks, sum_over_ranks, update
    from rdrop_paddle.vision import data

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = speed_worker.specification()
    rank, ranks = start_ranks()
    config = load_config(chosen["config"], chosen["overrides"])
    train, model = config.train, Vit(**model_numbers(config.model))
    optimizer = build_optimizer(model.parameters(), train)
    count = EVALUATION_BATCHES * config.eval.batch_size if chosen["evaluation"] else train.batch_size
    part = "test" if chosen["evaluation"] and config.eval.split == "test" else "train"
    (source, *_) = data.load_splits(config.data, part).values()
    order = iter(np.random.default_rng(0).integers(0, len(source.labels), [1000, count]))

    def once():
        chosen_now = next(order)[rank::ranks]
        images = torch.from_numpy(source.read(chosen_now))  # uint8 [count, H, W, 3]
        labels = torch.from_numpy(source.labels[chosen_now])
        if chosen["evaluation"]:
            sum_over_ranks([torch.tensor(count_correct(model, images, labels, config.eval.batch_size))])
        else:
            micro_batch = chosen["torch_micro_batch"] or count
            rdrop = dict(passes=config.rdrop.passes, alpha=config.rdrop.alpha, ranks=ranks)
            images = resize(images, model.image_size)
            update(model, optimizer, images, labels, micro_batch=micro_batch, clip_norm=train.clip_norm, **rdrop)
        return count, 0.0

    ceiling = speed_worker.fastest_product(torch.ones)
    speed_worker.report(once, rank=rank, ceiling=ceiling)
    return 0


if __name__ == "__main__":
    command_line.run(main)
