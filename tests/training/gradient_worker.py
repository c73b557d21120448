"""Gradients of one global batch of 64 digits for several micro-batch sizes, with dropout masks fixed per sample.

    python -m paddle.distributed.launch --nproc_per_node 2 tests/training/gradient_worker.py FOLDER LAYOUT ...

A LAYOUT is REDUCTION-MICRO[-recompute]. Rank 0 writes FOLDER/LAYOUT.npz: every parameter's gradient, mean `loss` and `kl`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import command_line

SAMPLES = []  # indices of the samples in the forward that is running


def main():
    import numpy as np

    folder, *layouts = sys.argv[1:]
    from rdrop_paddle import ranks

    rank, _ = ranks.start()
    for layout in layouts:
        reduction, micro_batch_size, *recompute = layout.split("-")
        arrays = gradients(reduction, int(micro_batch_size), recompute=bool(recompute))
        if rank == 0:
            np.savez(Path(folder) / f"{layout}.npz", **arrays)
    return 0


def gradients(reduction, micro_batch_size, recompute=False):
    import numpy as np
    import paddle
    from conftest import BASE, TINY

    from rdrop_paddle import load_config
    from rdrop_paddle.training.trainer import Trainer
    from rdrop_paddle.training.update_figures import FIGURES
    from rdrop_paddle.vision.task import ImageClassification

    class FixedDropout(paddle.nn.Layer):
        """Drops by (site, pass, sample), so that the masks do not depend on how the batch is cut."""

        def __init__(self, site):
            super().__init__()
            self.site = site

        def forward(self, x):
            keys = [(self.site, which, index) for which in (0, 1) for index in SAMPLES]
            masks = np.stack([np.random.default_rng(key).random(x.shape[1:]) > 0.3 for key in keys])
            return x * paddle.to_tensor(masks.astype("float32") / 0.7)

    class Task(ImageClassification):
        def forward(self, model, batch, passes=1):
            SAMPLES[:] = batch[-1].tolist()
            return super().forward(model, batch, passes)

    overrides = [f"train.micro_batch_size={micro_batch_size}", f"rdrop.reduction={reduction}", "train.clip_norm=null"]
    config = load_config(BASE, [*TINY, *overrides, "rdrop.alpha=2.0", f"train.recompute={recompute}"])
    task = Task(config)
    for n, parameter in enumerate(task.model.parameters()):
        parameter.set_value(np.random.default_rng(n).normal(0, 0.4, parameter.shape).astype("float32"))
    for block in task.model.blocks:
        block.mlp.drop1, block.mlp.drop2 = FixedDropout(1), FixedDropout(2)
    task.model.pos_drop = FixedDropout(0)
    trainer = Trainer(task, config)
    micro_batches, _ = trainer.read()
    means = dict(zip(FIGURES, trainer.backward(micro_batches, update=1).tolist()))
    found = {name: parameter.grad.numpy() for name, parameter in task.model.named_parameters()}
    return found | {key: np.float64(means[key]) for key in ("loss", "kl")}


if __name__ == "__main__":
    command_line.run(main)
