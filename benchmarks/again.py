"""Measure anew, on this machine, what files of tools/benchmark.py hold: all rows of docs/speed.md in one sitting.

python -m benchmarks.again results/speed/*.json
python -m benchmarks.again results/speed/ti96_*.json --rounds 3

A file is written when its rounds are done. Keep the machine quiet.
"""

import json
from pathlib import Path

from rdrop_paddle import command_line
from rdrop_paddle.config import data_root
from rdrop_paddle.errors import UserError
from rdrop_paddle.weights.loading import find_weights

from . import speed


def main():
    arguments = command_line.parser(__doc__)
    arguments.add_argument("files", nargs="+", metavar="FILE", help="of tools/benchmark.py --json")
    arguments.add_argument("--rounds", type=command_line.positive, default=5, help="measurements of each side (default 5)")
    options = arguments.parse_args()
    held = {path: sides_of(path) for path in options.files}
    for sides in held.values():  # before hours are spent
        for weights in {side.weights for side in sides if side.weights}:
            find_weights(weights, data_root())
    for number, (path, sides) in enumerate(held.items(), 1):
        print(f"[{number}/{len(held)}] {path}", flush=True)
        speed.compare(sides, options.rounds, path)
    return 0


def sides_of(path):
    """The Sides that a file holds.

    Raises:
        UserError: it is no such file.
    """
    try:
        return [speed.Side.from_json(side) for side in json.loads(Path(path).read_text())["sides"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no file of tools/benchmark.py --json ({error!r})") from None


if __name__ == "__main__":
    command_line.run(main)
