"""The loss curve of 20 updates of a tiny config, pinned: any change of the numbers has to be meant.

PYTHONPATH=.:tests OMP_NUM_THREADS=1 python tests/training/test_golden.py
writes tests/training/golden/losses.json anew, with the threads of make test; say in the commit why.
"""

import hashlib
import json
import os
import platform
from pathlib import Path

import pytest
from conftest import BASE, TINY  # first: it chooses threads and kernels before Paddle is imported

from rdrop_paddle import load_config
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision.task import ImageClassification

GOLDEN = Path(__file__).parent / "golden" / "losses.json"


def machine_kind():
    """What decides about the last bits: processor with the instructions it offers, library versions, threads."""
    import paddle

    lines = sorted(set(Path("/proc/cpuinfo").read_text().splitlines()))
    cpu = [line for line in lines if line.startswith(("model name", "cpu family", "model\t"))]
    flags = hashlib.sha256("".join(line for line in lines if line.startswith("flags")).encode()).hexdigest()[:16]
    settings = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    versions = {"paddle": paddle.__version__, "libc": " ".join(platform.libc_ver())}
    return {"machine": platform.machine(), "cpu": cpu, "flags": flags, **versions, **settings}


def curve():
    import paddle

    overrides = ["train.steps=20", "train.warmup_steps=5", "train.lr=0.1", "model.drop_rate=0.1", "rdrop.alpha=2.0"]
    config = load_config(BASE, [*TINY, *overrides])
    paddle.seed(config.train.seed)
    trainer = Trainer(ImageClassification(config), config)
    losses = []
    for _ in range(20):
        trainer.step(trainer.read()[0])
        losses.append({name: value for name, value in trainer.fetch(Path()).items() if name in ("loss", "ce", "kl")})
    return losses


def test_the_loss_curve_is_the_golden_one():
    import paddle

    if paddle.__version__.startswith("2."):
        pytest.skip("the golden curve begins with the initial weights that Paddle 3 draws")
    golden, found = json.loads(GOLDEN.read_text()), curve()
    if golden["machine_kind"] == machine_kind():
        assert found == golden["curve"]
    assert len(found) == len(golden["curve"]) == 20
    for expected, values in zip(golden["curve"], found):
        assert values["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert values["kl"] == pytest.approx(expected["kl"], rel=1e-4)  # a small difference of large numbers


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"machine_kind": machine_kind(), "curve": curve()}, indent=1) + "\n")
