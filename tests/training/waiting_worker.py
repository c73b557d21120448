"""Rank 0 comes 35 seconds late to a wait, as after a download; gloo's own barrier gives up after 30.

python -m paddle.distributed.launch --nproc_per_node 2 tests/training/waiting_worker.py
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import paddle

from rdrop_paddle import ranks

rank, _ = ranks.start()
start = time.perf_counter()
time.sleep(35 if rank == 0 else 0)
ranks.wait_for_all()
assert time.perf_counter() - start > 34
assert ranks.sum_over_all(paddle.to_tensor([rank + 1])).tolist() == [3]
