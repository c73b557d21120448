"""Train the digits quickstart twice, as baseline and with R-Drop, on two CPU ranks; evaluate both and print a table.

python tools/quickstart.py
python tools/quickstart.py --seed 3 -o train.steps=500
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rdrop_paddle import command_line
from rdrop_paddle.durability import supervision

CONFIG = "configs/digits_quickstart.yaml"
ARMS = {"baseline": ["rdrop.passes=1", "rdrop.alpha=0"], "R-Drop": []}


def main():
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seed", type=int, default=0, help="of both runs")
    arguments.add_argument(
        "-o", "--override", nargs="+", action="extend", default=[], metavar="key=value", help="for both runs"
    )
    options = arguments.parse_args()
    rows = {}
    for arm, overrides in ARMS.items():
        folder = unused_folder(f"digits_{arm.lower().replace('-', '')}_seed{options.seed}")
        print(f"{arm}: training and evaluating {os.path.relpath(folder)} on two ranks", flush=True)
        rows[arm] = run(folder, [f"name={folder.name}", f"train.seed={options.seed}", *overrides, *options.override])
    print("\n|          | test accuracy      | training, s |\n|----------|--------------------|-------------|")
    for arm, (score, seconds) in rows.items():
        accuracy = f"{score['accuracy']:.4f} ({score['correct']}/{score['total']})"
        print(f"| {arm:<8} | {accuracy:<18} | {seconds:11.0f} |")
    command = " ".join(map(os.path.relpath, (sys.executable, ROOT / "tools" / "dashboard.py", ROOT / "output")))
    print(f"\nThe curves:  {command}")


def run(folder, overrides):
    """Train and evaluate in processes of their own; returns the score and the seconds that training took."""
    log_dir = folder.parent / "launcher" / folder.name
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", log_dir]
    start = time.perf_counter()
    call(*launcher, "tools/train.py", "-c", CONFIG, "-o", *overrides)
    seconds = time.perf_counter() - start
    result = log_dir / "eval.json"
    call("tools/eval.py", "-c", folder / "config.yaml", "--weights", folder / "best.safetensors", "--json", result)
    return json.loads(result.read_text()), seconds


def call(*arguments):
    status = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=supervision.GIVEN).returncode
    if status:
        sys.exit(status)


def unused_folder(name):
    """output/name, or output/name-2 and so on: earlier runs stay."""
    folders = [ROOT / "output" / name, *(ROOT / "output" / f"{name}-{n}" for n in range(2, 1000))]
    return next(folder for folder in folders if not folder.exists())


if __name__ == "__main__":
    command_line.run(main)
