"""Three updates of two micro-batches each on every stage of sharding, then a fourth after resuming with the next stage.

    python -m paddle.distributed.launch --nproc_per_node 2 tests/training/sharding_worker.py FOLDER

For each optimizer rank 0 writes FOLDER/OPTIMIZER/STAGE/checkpoints/ (updates 3 and 4, the latter of the stage that resumed)
and FOLDER/OPTIMIZER/STAGE.json: the figures of the updates and how many numbers of the optimizer's state, without those that
are one for a whole parameter, and of the gradient each rank holds.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import command_line

STAGES = (0, 1, 2)
OPTIMIZERS = {
    "momentum": ["train.lr=0.5"],
    # an epsilon that is large beside what rounding leaves of a gradient of zero, which the key's bias has
    "adamw": ["train.optimizer=adamw", "train.lr=0.05", "train.epsilon=1e-3"],
}


def main():
    from rdrop_paddle import ranks

    rank, rank_count = ranks.start()
    for optimizer, overrides in OPTIMIZERS.items():
        folder = Path(sys.argv[1]) / optimizer
        for stage in STAGES:
            found = run(folder / str(stage), stage, overrides, rank, rank_count)
            if rank == 0:
                (folder / f"{stage}.json").write_text(json.dumps(found))
    return 0


def run(run_folder, stage, overrides, rank, rank_count):
    import paddle

    from rdrop_paddle import ranks

    trainer = trainer_of(stage, overrides)
    figures = []
    for _ in range(3):
        trainer.step(trainer.read()[0])
        figures.append(trainer.fetch(run_folder))
    state = [t for t in trainer.optimizer.state_dict().values() if isinstance(t, paddle.Tensor) and t.size > 1]
    trainer.save(run_folder)
    trainer.backward(trainer.read()[0], update=4)
    gradients = [p.grad for p in trainer.task.model.parameters() if p.grad is not None]
    counts = [sum(tensor.size for tensor in tensors) for tensors in (state, gradients)]
    held = paddle.to_tensor([[count * (n == rank) for n in range(rank_count)] for count in counts])  # [2, ranks]
    resumed = trainer_of((stage + 1) % len(STAGES), overrides)
    resumed.restore(run_folder)
    resumed.step(resumed.read()[0])
    assert not resumed.optimizer._accumulators_holder  # of the checkpoint it keeps its own share only
    figures.append(resumed.fetch(run_folder))
    resumed.save(run_folder)
    state, gradient = ranks.sum_over_all(held).tolist()
    return dict(figures=figures, state=state, gradient=gradient)


def trainer_of(stage, overrides):
    import paddle
    from conftest import BASE, TINY

    from rdrop_paddle import load_config
    from rdrop_paddle.training.trainer import Trainer
    from rdrop_paddle.vision.task import ImageClassification

    shared = ["train.micro_batch_size=16", "train.clip_norm=0.1", "train.weight_decay=0.01", f"train.sharding={stage}"]
    config = load_config(BASE, [*TINY, *shared, *overrides])
    paddle.seed(0)
    return Trainer(ImageClassification(config), config)


if __name__ == "__main__":
    command_line.run(main)
