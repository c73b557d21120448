"""Rank 1 comes to an update and hangs before its collective, while its heartbeat goes on.

python -m paddle.distributed.launch --nproc_per_node 2 tests/durability/hanging_worker.py
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import ranks
from rdrop_paddle.durability.heartbeat import Heartbeat

rank, _ = ranks.start()
with Heartbeat(5, lambda: "none"):
    ranks.progress.signs += 1
    if rank == 1:
        time.sleep(100)
    ranks.wait_for_all()
