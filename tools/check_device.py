"""Check that a GPU, or this CPU, trains as it should; ends with a table to be passed on.

python tools/check_device.py

A small model's logits and gradients are held against those of a CPU, three updates are timed and done twice for the same bits,
two ranks are held against one where there are two cards, and a model is exported to ONNX. Nothing has to be downloaded.

Exit status: 0; 1 when a check says FAIL; 2 when Paddle does not start.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import device_check
from rdrop_paddle import command_line


def main():
    command_line.parser(__doc__).parse_args()
    machine, rows = device_check.run()
    print(device_check.table(machine, rows))
    return 1 if any(row.verdict == device_check.FAIL for row in rows) else 0


if __name__ == "__main__":
    command_line.run(main)
