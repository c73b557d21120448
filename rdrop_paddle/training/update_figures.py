"""What an update tells of itself: its figures, which stay on the device until somebody looks, its time and its memory.

An update whose loss or gradient is not finite can be left out, which the device decides by itself.
"""

import time
from typing import NamedTuple

import numpy as np
import paddle

# of an update: means over the positions of the global batch, the gradient's norm before clipping, and how many positions
TERMS = ("ce", "kl")
FIGURES = ("loss", *TERMS, "grad_norm", "positions")
WATCHED = ("loss", "grad_norm")  # an update is worth nothing unless these are finite


class Pending(NamedTuple):
    """An update whose figures are still on the device."""

    update: int
    figures: paddle.Tensor  # float32 [len(FIGURES)]
    indices: list  # of the samples of this rank, one tensor per micro-batch


@paddle.no_grad()
def move_if_finite(figures, move, moving):
    """Call `move()`, which changes the tensors that `moving()` gives by name; to the bit nothing unless `figures` are finite.

    The host would have to wait for the answer, so that a copy of the tensors is kept instead.
    """
    before = {name: tensor.clone() for name, tensor in moving().items()}
    move()
    finite = paddle.isfinite(paddle.stack([figures[FIGURES.index(name)] for name in WATCHED])).all()
    for name, tensor in moving().items():
        paddle.assign(paddle.where(finite.expand_as(tensor), tensor, before[name]), tensor)


def fetch_all(pending):
    """The figures of each Pending update as {name: float}, in one transfer."""
    rows = paddle.stack([done.figures for done in pending]).tolist()
    return [dict(zip(FIGURES, row)) for row in rows]


def is_finite(means, scaled):
    """Whether an update was, by its fetched figures. float16, if `scaled`, overflows now and then, which its scaler skips."""
    return all(np.isfinite(means[name]) for name in (["loss"] if scaled else WATCHED))


def describe_failure(done, means, last_checkpoint):
    """What to know of an update that was not finite; looks into its tensors."""
    indices = [int(i) for micro_batch in done.indices for i in micro_batch.numpy().ravel()]
    return (
        f"update {done.update}: loss {means['loss']}, gradient norm {means['grad_norm']}; samples of this rank: {indices}; "
        f"last good checkpoint: {last_checkpoint or 'none yet'}"
    )


class Clock:
    """Seconds since the last lap, split into reading and the rest."""

    def __init__(self):
        self.restart()

    def restart(self):
        self._start, self._reading, self._updates, self._positions = time.perf_counter(), 0.0, 0, 0

    def add(self, reading):
        self._reading += reading
        self._updates += 1

    def count(self, positions):
        self._positions += positions

    def lap(self, unit):
        """Positions per second over all ranks, called by `unit`, seconds per update for reading and in all, GB; a new lap."""
        elapsed, updates = time.perf_counter() - self._start, self._updates
        found = {
            f"{unit}_per_second": self._positions / elapsed,
            "reader_cost": self._reading / updates,
            "batch_cost": elapsed / updates,
            "peak_memory": peak_memory(),
        }
        self.restart()
        return found


def peak_memory():
    """GB that this rank has held at most since it began: of its GPU as Paddle allocated them, on a CPU resident."""
    if paddle.get_device() != "cpu":
        return paddle.device.cuda.max_memory_allocated() / 1e9
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in kB
