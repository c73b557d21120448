"""Kill a training run with SIGKILL at random moments, resume it, and see that nothing is lost.

    python tests/durability/kill_repeatedly.py FOLDER [--kills 100] [--steps 200] [--minutes 30] [--seed 0]

The run saves every 2 updates and is begun anew when it reaches its end before enough kills. After every kill: `latest` names a
checkpoint that verifies, all others do too, and at most 2 updates are lost. At each end: weights, momentum, averages, best
weights, progress and metrics are to the bit those of a run that nobody killed. Prints a summary; a broken promise raises.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "training")]

from conftest import BASE, TINY
from resume_worker import outcome

from rdrop_paddle.durability import checkpoint, files
from rdrop_paddle.reporting.metrics import read_metrics

SAVE_EVERY = 2
IN_START_UP = 0.2  # share of the kills that come while the process starts or restores
START_UP, UNDER_WAY = 4.0, 1.0  # seconds within which the moment is drawn, from the start or from the first update


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--steps", type=int, default=200)
    arguments.add_argument("--minutes", type=float, default=30)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    print(json.dumps(kill_repeatedly(**vars(options))))


def kill_repeatedly(folder, kills, steps, minutes, seed=0):
    """{"kills", "runs", "worst_loss" in updates, ...} after so many kills, or as many as fit into the minutes."""
    rng, end = random.Random(seed), time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    assert life(folder, "straight", steps) == 0
    expected = outcome(folder / "straight")
    lost, runs = [], 0
    while len(lost) < kills and time.monotonic() < end:
        name, status = f"killed{runs}", None
        while status is None:
            enough = len(lost) >= kills or time.monotonic() > end
            status = life(folder, name, steps, None if enough else moment(rng))
            if status is None:
                lost.append(updates_lost(folder / name))
        assert status == 0, status
        assert outcome(folder / name) == expected
        runs += 1
    return dict(kills=len(lost), runs=runs, worst_loss=max(lost), lost={n: lost.count(n) for n in sorted(set(lost))})


def moment(rng):
    """(whether to count from the first update instead of the start, seconds)."""
    under_way = rng.random() >= IN_START_UP
    return under_way, rng.uniform(0, UNDER_WAY if under_way else START_UP)


def life(folder, name, steps, moment=None):
    """Start or resume the run; its exit status, or None when it was killed at the `moment`."""
    overrides = [*TINY, f"train.steps={steps}", f"train.save_every={SAVE_EVERY}", "train.eval_every=20", "train.ema_decay=0.9"]
    command = [sys.executable, ROOT / "tools" / "train.py", "-c", BASE, "-o", *overrides, f"output={folder}", f"name={name}"]
    command += ["--resume"] if (folder / name).exists() else []
    with (folder / f"{name}.log").open("ab") as output, (folder / f"{name}.log").open("rb") as lines:
        lines.seek(0, 2)
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output)
        try:
            if moment is None:
                return process.wait(600)
            under_way, seconds = moment
            printed = b""
            while under_way and b"\nupdate " not in printed and process.poll() is None:
                printed += lines.read()
                time.sleep(0.005)
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()
            process.wait()


def updates_lost(folder):
    """How many updates that were logged have to be made again; raises when a checkpoint is not whole."""
    faults = {path.name: files.fault(path) for path in checkpoint._all(folder)}
    assert not any(faults.values()), faults
    pointer = folder / "checkpoints" / "latest"
    if pointer.exists():
        assert files.fault(folder / "checkpoints" / pointer.read_text().strip()) is None
    newest = checkpoint.latest(folder)
    saved = checkpoint.load_state(newest)["update"] if newest else 0
    made = max([0, *(record["step"] for record in read_metrics(folder))])
    assert made - saved <= SAVE_EVERY, (made, saved)
    return made - saved


if __name__ == "__main__":
    main()
