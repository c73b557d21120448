"""Rank 0 waits inside C for a rank that will be killed, as NCCL does: Python's signal handlers do not run there.

python -m paddle.distributed.launch --nproc_per_node 2 tests/durability/waiting_in_c_worker.py
"""

import ctypes
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import ranks
from rdrop_paddle.durability.heartbeat import Heartbeat
from rdrop_paddle.durability.interruption import Interruption

rank, _ = ranks.start()
with Heartbeat(600, lambda: "none"), Interruption():
    ranks.progress.signs += 1
    ranks.wait_for_all()
    print("waiting", flush=True)
    if rank == 0:
        ctypes.CDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)  # goes on after a signal
    time.sleep(600)
