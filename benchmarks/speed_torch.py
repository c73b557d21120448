"""The same work in torch for speed.py: one process with all threads, images that are in memory already.

python benchmarks/speed_torch.py SPECIFICATION.json FOLDER
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import command_line, load_config


def main():
    import torch

    from benchmarks.torch_reference import Vit, count_correct, update

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = speed_worker.specification()
    config = load_config(chosen["config"], chosen["overrides"])
    train, model = config.train, Vit(**chosen["model"])
    optimizer = torch.optim.SGD(model.parameters(), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    count = chosen["images"]
    images = torch.rand(count, 3, config.model.image_size, config.model.image_size) * 2 - 1
    labels = torch.randint(0, config.model.classes, [count])

    def once():
        if chosen["evaluation"]:
            count_correct(model, images, labels, config.eval.batch_size)
        else:
            micro_batch = chosen["torch_micro_batch"] or count
            rdrop = dict(passes=config.rdrop.passes, alpha=config.rdrop.alpha)
            update(model, optimizer, images, labels, micro_batch=micro_batch, clip_norm=train.clip_norm, **rdrop)
        return 0.0

    ceiling = speed_worker.fastest_product(torch.ones)
    speed_worker.report(once, rank=0, images=count, ceiling=ceiling)
    return 0


if __name__ == "__main__":
    command_line.run(main)
