"""A run that is resumed after given updates against the same run left alone, on as many ranks as are started.

    python -m paddle.distributed.launch --nproc_per_node 2 tests/training/resume_worker.py FOLDER OPTIMIZER UPDATE [UPDATE ...]

Rank 0 writes FOLDER/differences.json, {update: what differs}, and leaves FOLDER/plain and FOLDER/plain-after6, a run without
dropout and what there was of it after 6 updates.
"""

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import command_line

# 6 updates an epoch: 1 to 5 and 7 to 11 are within one, 4, 8 and 12 have an evaluation, 6 and 12 end an epoch
STEPS = 12
OVERRIDES = [
    f"train.steps={STEPS}",
    "train.save_every=1",
    "train.eval_every=4",
    "train.lr=0.3",
    "train.weight_decay=0.01",
    "train.ema_decay=0.9",
    "data.images_per_class=40",
]
OPTIMIZERS = {"momentum": [], "adamw": ["train.optimizer=adamw", "train.lr=0.01", "train.schedule=inverse_sqrt"]}
PLAIN = ["model.drop_rate=0", "rdrop.alpha=0"]


def main():
    from rdrop_paddle import ranks

    folder, optimizer, updates = Path(sys.argv[1]), OPTIMIZERS[sys.argv[2]], [int(text) for text in sys.argv[3:]]
    rank, _ = ranks.start()
    found = differences(folder, updates, optimizer)
    run(folder, "plain", *optimizer, *PLAIN, copies=[6])
    if rank == 0:
        (folder / "differences.json").write_text(json.dumps(found))
    return 0


def differences(output, updates, optimizer, *overrides):
    """{update: the names of what is not equal to the bit}; only the resumed runs get `overrides`."""
    run(output, "straight", *optimizer, copies=updates)
    found = {}
    for update in updates:
        run(output, f"straight-after{update}", *optimizer, *overrides, resume=True)
        expected, resumed = outcome(output / "straight"), outcome(output / f"straight-after{update}")
        found[update] = [name for name in expected | resumed if expected.get(name) != resumed.get(name)]
    return found


def run(output, name, *overrides, copies=(), resume=False):
    """Train to the end; the run folder as it is after each update of `copies` is copied to NAME-afterUPDATE."""
    import paddle
    from conftest import BASE, TINY

    from rdrop_paddle import load_config, ranks
    from rdrop_paddle.reporting.runlog import RunLog
    from rdrop_paddle.training import engine
    from rdrop_paddle.training.trainer import Trainer
    from rdrop_paddle.vision.task import ImageClassification

    config = load_config(BASE, [*TINY, *OVERRIDES, *overrides, f"output={output}", f"name={name}"])
    paddle.seed(1 if resume else 0)  # nothing is to be right because it began in the same way
    trainer = Trainer(ImageClassification(config), config)
    if resume:
        trainer.restore(output / name)
    save = trainer.save

    def save_and_copy(folder):
        save(folder)
        if trainer.updates_done in copies and trainer.rank == 0:
            shutil.copytree(folder, output / f"{name}-after{trainer.updates_done}")
        ranks.wait_for_all()

    trainer.save = save_and_copy
    with RunLog(config, rank=trainer.rank, ranks=trainer.ranks, kept_updates=trainer.updates_done) as log:
        engine.train(trainer, log)
    ranks.wait_for_all()
    return trainer


def outcome(folder):
    """What a run came to, by name: the bytes of its weights, momentum and averages, its progress and what it logged."""
    from conftest import logged

    from rdrop_paddle.durability import checkpoint

    last = checkpoint.latest(folder)
    state = checkpoint.load_state(last)
    del state["config"]  # may differ in what is free to
    files = [*sorted(last.glob("*.safetensors")), folder / "best.safetensors"]
    return {path.name: content(path) for path in files} | {"state": state, "metrics.jsonl": logged(folder)}


def content(path):
    """(metadata, {name: the bytes of a tensor}); not the file's bytes, because safetensors gives metadata no fixed order."""
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


if __name__ == "__main__":
    command_line.run(main)
