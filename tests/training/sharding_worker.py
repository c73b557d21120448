"""Three updates of two micro-batches each on every stage of sharding, then a fourth after resuming with the next stage.

    python -m paddle.distributed.launch --nproc_per_node 2 tests/training/sharding_worker.py FOLDER

Rank 0 writes FOLDER/STAGE/checkpoints/ (updates 3 and 4, the latter of the stage that resumed) and FOLDER/STAGE.json: the
figures of the updates and how many numbers of momentum and gradient each rank holds.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import command_line

STAGES = (0, 1, 2)


def main():
    import paddle

    from rdrop_paddle import ranks

    rank, rank_count = ranks.start()
    folder = Path(sys.argv[1])
    for stage in STAGES:
        run_folder = folder / str(stage)
        trainer = trainer_of(stage)
        figures = []
        for _ in range(3):
            trainer.step(trainer.read()[0])
            figures.append(trainer.fetch(run_folder))
        velocities = [t for name, t in trainer.optimizer.state_dict().items() if "velocity" in name]
        trainer.save(run_folder)
        trainer.backward(trainer.read()[0], update=4)
        gradients = [p.grad for p in trainer.task.model.parameters() if p.grad is not None]
        counts = [sum(tensor.size for tensor in tensors) for tensors in (velocities, gradients)]
        held = paddle.to_tensor([[count * (n == rank) for n in range(rank_count)] for count in counts])  # [2, ranks]
        resumed = trainer_of((stage + 1) % len(STAGES))
        resumed.restore(run_folder)
        resumed.step(resumed.read()[0])
        figures.append(resumed.fetch(run_folder))
        resumed.save(run_folder)
        momentum, gradient = ranks.sum_over_all(held).tolist()
        if rank == 0:
            (folder / f"{stage}.json").write_text(json.dumps(dict(figures=figures, momentum=momentum, gradient=gradient)))
    return 0


def trainer_of(stage):
    import paddle
    from conftest import BASE, TINY

    from rdrop_paddle import load_config
    from rdrop_paddle.training.trainer import Trainer
    from rdrop_paddle.vision.task import ImageClassification

    overrides = ["train.micro_batch_size=16", "train.clip_norm=0.1", "train.weight_decay=0.01", "train.lr=0.5"]
    config = load_config(BASE, [*TINY, *overrides, f"train.sharding={stage}"])
    paddle.seed(0)
    return Trainer(ImageClassification(config), config)


if __name__ == "__main__":
    command_line.run(main)
