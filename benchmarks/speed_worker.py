"""What the workers of speed.py share: time repeats of a piece of work and write the figures of one rank."""

import json
import os
import resource
import sys
import time
from pathlib import Path

PRODUCT, PRODUCTS = 1536, 10  # side of the square matrices, and how many products are timed


def specification():
    """The Side that is measured, as a dictionary; the first argument names the file."""
    return json.loads(Path(sys.argv[1]).read_text())


def report(once, *, rank, ceiling):
    """Call `once()`, which returns the positions of all ranks and the seconds spent reading, and write FOLDER/rank-N.json."""
    chosen, folder = specification(), Path(sys.argv[2])
    for _ in range(chosen["warmup"]):
        once()
    seconds, counts, reading = [], [], 0.0
    for _ in range(chosen["repeats"]):
        start = time.perf_counter()
        positions, spent = once()
        seconds.append(time.perf_counter() - start)
        counts.append(positions)
        reading += spent
    figures = dict(seconds=seconds, positions=counts, reading=reading, ceiling=ceiling, peak_memory=peak_memory())
    (folder / f"rank-{rank}.json").write_text(json.dumps(figures))


def fastest_product(ones):
    """GFLOP/s of the fastest of some products of large square matrices; `ones(shape)` makes a matrix."""
    a, b = ones([PRODUCT, PRODUCT]), ones([PRODUCT, PRODUCT])
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * PRODUCT**3 / min(seconds) / 1e9


def peak_memory():
    """GB that this process had resident at most, its part of the pages that it shares with other ranks alone."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux: in kB
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    now = {name.rstrip(":"): int(size) for name, size, _ in map(str.split, lines)}
    return peak - (now["Rss"] - now["Pss"]) / 1e6


def run_in_torch(worker):
    """A torch side's main; `worker(config, side, rank, ranks)` gives the function that is timed, by a Side as a dictionary."""
    import torch

    from benchmarks.torch_reference import start_ranks
    from rdrop_paddle import load_config

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = specification()
    rank, ranks = start_ranks()
    once = worker(load_config(chosen["config"], chosen["overrides"]), chosen, rank, ranks)
    report(once, rank=rank, ceiling=fastest_product(torch.ones))
    return 0
