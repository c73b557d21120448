"""Rank 1 comes to an update and hangs before its collective, while its heartbeat goes on.

python -m paddle.distributed.launch --nproc_per_node 2 tests/hanging_worker.py
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import ranks
from rdrop_paddle.heartbeat import Heartbeat
from rdrop_paddle.interruption import Interruption

rank, _ = ranks.start()
with Heartbeat(5, Interruption(), lambda: "none"):
    ranks.progress.signs += 1
    if rank == 1:
        time.sleep(100)
    ranks.wait_for_all()
