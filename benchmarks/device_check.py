"""Whether training does on this machine's device what it does on a CPU: each check in processes of its own, then a table.

A fault of a GPU may end the process that meets it, and leaves its CUDA context unusable: the other checks go on all the same.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rdrop_paddle import load_config
from rdrop_paddle.console import say
from rdrop_paddle.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PASS, FAIL, NOT_RUN = "PASS", "FAIL", "not run"
BOUNDS = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-2}  # of the golden figures, relative
PATIENCE = 600  # seconds for one check
# cuBLAS and cuDNN multiply float32 with 10 bits on Ampere and later unless this says no: what is checked is the mathematics
WITHOUT_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}
SAME_BITS = {"FLAGS_cudnn_deterministic": "1", "FLAGS_embedding_deterministic": "1"}
DIGITS = ["data.name=digits", "data.workers=0", "model.classes=10", "model.weights=''"]  # which need no download
ON_GPU = ("configs/vit_b16_cifar100_rdrop.yaml", "ViT-B/16, 384 px")
ON_CPU = ("configs/vit_ti16_cifar100_rdrop.yaml", "ViT-Ti/16, 96 px")
# without dropout, whose masks are a rank's own
STILL = ["model.drop_rate=0", "rdrop.passes=1", "rdrop.alpha=0", "train.micro_batch_size=5", "train.warmup_steps=0"]
RANKS_AGREE = 1e-4  # losses and gradients' norms of one rank and of two, relative


class Row(NamedTuple):
    check: str
    verdict: str
    seen: str


class Failure(Exception):
    """A check's process failed; the message is its last word."""


def ask(*words, environment=None, ranks=1):
    """What device_worker.py finds, a dictionary.

    Raises:
        Failure: it ended otherwise, or has not ended after PATIENCE seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", ranks, "--log_dir", log]
        worker = [ROOT / "benchmarks" / "device_worker.py", result, *words]
        command = list(map(str, [sys.executable, *(launcher if ranks > 1 else []), *worker]))
        settings = dict(cwd=ROOT, env=os.environ | (environment or {}), text=True, start_new_session=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"no answer after {PATIENCE} s") from None
        finally:
            if process.poll() is None:  # with what the launcher started
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode or not result.exists():
            said = "\n".join(path.read_text() for path in log.glob("workerlog.*")) or said
            raise Failure(f"exit status {process.returncode}: {_last_word(said)}")
        return json.loads(result.read_text())


def _last_word(said):
    """The last line that speaks of an error, or the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing was printed"]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1])


def run():
    """(a line on the machine, [Row])."""
    try:
        machine = ask("describe")
    except Failure as failure:
        raise UserError(f"Paddle does not start: {failure}") from None
    dtypes = ["float32", *([machine["half"]] if machine["half"] else [])]
    rows = []
    for dtype in dtypes:
        rows += [_row(f"{_precision(dtype)}: a small model's figures", _golden, dtype)]
    for dtype in dtypes:
        rows += _updates(machine, dtype)
    if not machine["half"]:
        rows += [Row("train.amp=O1", NOT_RUN, "Paddle has no 16-bit type for this device")]
    if not machine["on_gpu"]:
        rows += [Row(f"updates of {ON_GPU[1]}", NOT_RUN, "a CPU takes minutes for one")]
    if machine["on_gpu"] and machine["cards"] < 2:
        rows += [Row("two ranks", NOT_RUN, "there is one card")]
    else:
        rows += [_row("two ranks train as one", _two_ranks)]
    return machine["words"], [*rows, _row("ONNX export", _export)]


def _row(check, function, *arguments):
    say(f"checking: {check}")
    try:
        return Row(check, *function(*arguments))
    except Failure as failure:
        return Row(check, FAIL, str(failure))


def _golden(dtype):
    found, bound = ask("golden", dtype, environment=WITHOUT_TF32), BOUNDS[dtype]
    seen = f"{found['difference']:.1e} from a CPU at most, of {bound:.0e} ({found['name']}); {found['attention']} attention"
    return _verdict(found["difference"] <= bound), seen


def _updates(machine, dtype):
    """A row on speed and memory, and one on whether the same updates give the same bits."""
    config, name = ON_GPU if machine["on_gpu"] else ON_CPU
    overrides = [config, *DIGITS, "train.batch_size=32", "train.micro_batch_size=8"]
    label = f"{_precision(dtype)}: three updates of {name}"

    def speed():
        found = ask("updates", dtype, *overrides)
        recipe = load_config(ROOT / config).train
        hours = min(found["seconds"]) * recipe.batch_size / found["samples"] * recipe.steps / 3600
        seen = f"{min(found['seconds']):.2f} s for 32 images, {found['peak_memory']:.2f} GB, loss {found['losses'][-1]:.4f}"
        return _verdict(all(map(math.isfinite, found["losses"]))), f"{seen}; the whole recipe would take {hours:.1f} h"

    def bits():
        first, second = (ask("updates", dtype, *overrides, environment=SAME_BITS)["digest"] for _ in range(2))
        return _verdict(first == second), f"{first[:8]}, {second[:8]}; {' '.join(f'{k}={v}' for k, v in SAME_BITS.items())}"

    return [_row(label, speed), _row(f"{label}, twice the same bits", bits)]


def _two_ranks():
    one, two = (ask("updates", "float32", "configs/digits_quickstart.yaml", *STILL, ranks=ranks) for ranks in (1, 2))
    pairs = [pair for key in ("losses", "norms") for pair in zip(one[key], two[key])]
    difference = max(abs(a - b) / abs(a) for a, b in pairs)
    seen = f"losses and gradients' norms differ by {difference:.1e} at most, of {RANKS_AGREE:.0e}"
    return _verdict(two["ranks"] == 2 and difference <= RANKS_AGREE), seen


def _export():
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = ask("export", folder)
        except Failure as failure:
            if "--onnx needs" in str(failure):
                return NOT_RUN, str(failure).partition("error: ")[2]
            raise
    return _verdict(found["passed"]), f"{found['difference']:.1e} from the model at most"


def _verdict(passed):
    return PASS if passed else FAIL


def _precision(dtype):
    return dtype if dtype == "float32" else f"O1, {dtype}"


def table(machine, rows):
    """Markdown, to be pasted."""
    lines = ["| check | result | seen |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([machine, "", *lines])
