"""The processes of one training run: who this is, waiting for each other, sums over all."""

import contextlib
import itertools
import os
import socket
import sys
import time

import paddle
from paddle import distributed

_waits = itertools.count()  # every rank waits in the same order, so that equal numbers mean the same wait


class Progress:
    """How far the main thread of this rank has come, which its heartbeat tells the others."""

    stage = 0  # counts what all ranks come to in the same order: waits for each other and updates
    signs = 0  # counts what else shows that it works: micro-batches and batches of an evaluation


progress = Progress()  # of this process, which is one rank


def start():
    """Connect the ranks when Paddle's launcher started several; returns (rank, ranks)."""
    if int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1:
        distributed.init_parallel_env()
        _send_at_once(int(os.environ["PADDLE_MASTER"].rsplit(":", 1)[1]))
    return rank(), count()


def rank():
    return distributed.get_rank()


def count():
    return distributed.get_world_size()


def wait_for_all():
    """Return once every rank has called this, however long that takes.

    A collective is no substitute: on the CPU gloo gives up after 30 seconds, which a download or a slower rank may need.
    """
    if count() == 1:
        return
    progress.stage += 1
    key = f"wait/{next(_waits)}"
    tally(key, 1)
    while tally(key) < count():
        time.sleep(0.01)


def first_before_others(read):
    """read() on every rank, on rank 0 before the others: it may have to download or to write what they find."""
    if rank() > 0:
        wait_for_all()
    found = read()
    if rank() == 0:
        wait_for_all()
    return found


def tally(key, number=0):
    """Add to a count that the ranks share through the TCP store, and return it; waits for no other rank. Main thread only."""
    from paddle.base import core

    return core.create_or_get_global_tcp_store().add(f"rdrop_paddle/{key}", number)


def _send_at_once(port):
    """Set TCP_NODELAY on the connection to the store at `port`, which Paddle leaves out: 0.1 ms a request instead of 44."""
    for descriptor in map(int, os.listdir("/proc/self/fd") if sys.platform == "linux" else []):
        with contextlib.suppress(OSError):  # no socket, not connected, or the descriptor of the listing itself
            connection = socket.socket(fileno=descriptor)
            try:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getpeername()[1] == port:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            finally:
                connection.detach()


def total(number):
    """The sum over the ranks of an integer that each one has."""
    wait_for_all()  # one of them may come late
    # not item(), which waits for a GPU without letting the other threads run, the heartbeat among them
    return int(sum_over_all(paddle.to_tensor([number], dtype="int64")).numpy()[0])


def most(number):
    """The largest of the integers that the ranks have."""
    wait_for_all()
    tensor = paddle.to_tensor([number], dtype="int64")
    if count() > 1:
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor.numpy()[0])


def from_first(number):
    """Rank 0's integer, on every rank."""
    return total(number if rank() == 0 else 0)


def sum_over_all(tensor):
    """The sum of `tensor` over the ranks, in place; it is the same on every rank."""
    if count() > 1:
        distributed.all_reduce(tensor)
    return tensor
