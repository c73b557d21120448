"""Every rank meets the same UserError, rank 0 three seconds after the others, as when it reads a slow disk.

python -m paddle.distributed.launch --nproc_per_node 2 tests/durability/failing_worker.py
"""

import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import UserError, command_line


def main():
    time.sleep(3 if os.environ["PADDLE_TRAINER_ID"] == "0" else 0)
    raise UserError("no data")


if __name__ == "__main__":
    command_line.run(main)
