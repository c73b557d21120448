"""Every rank tells the others that it lives and how far it is; one that dies or hangs ends the run on all of them.

A collective that waits for a dead rank cannot be interrupted, so the process ends from a thread beside it.
"""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from typing import NamedTuple

from .. import ranks
from ..errors import UserError

INTERVAL = 0.5  # seconds between beats
SILENCE = 2.5  # seconds without a beat that are news when something else is wrong already


class Beat(NamedTuple):
    """What a rank tells: how often it did so, and its ranks.Progress."""

    count: int = 0
    stage: int = 0
    signs: int = 0


class Ledger:
    """What this rank knows of every rank, at times in seconds on a clock of the caller's."""

    def __init__(self, rank, rank_count):
        self._rank = rank
        self._beats = [Beat()] * rank_count
        self._heard = [0.0] * rank_count  # when the beat last changed
        self._progress = 0.0  # when any rank's main thread last made progress

    def hear(self, rank, beat, now):
        before, self._beats[rank] = self._beats[rank], beat
        if beat != before:
            self._heard[rank] = now
        if beat[1:] != before[1:]:
            self._progress = now

    def idle(self, now):
        """Seconds since the main thread of any rank made progress."""
        return now - self._progress

    def silent(self, now, patience):
        """A line on the ranks that have not been heard of for `patience` seconds, or None.

        Rank 0 holds the store through which all beats go, so that it is the one to name when not even this rank's come back.
        """
        late = [rank for rank, heard in enumerate(self._heard) if now - heard >= patience]
        if not late:
            return None
        named = [0] if self._rank in late else late
        return f"{_names(named)} not been heard of for {now - self._heard[named[0]]:.0f} s, dead or hanging"

    def standing(self, now, patience):
        """A line on the ranks behind which the others have waited for `patience` seconds of training, or None."""
        if self.idle(now) < patience or not self._beats[self._rank].signs:  # reading the data may take any time
            return None
        stages = [beat.stage for beat in self._beats]
        behind = [rank for rank, stage in enumerate(stages) if stage < max(stages)]
        since = f"for {self.idle(now):.0f} s"
        if behind:
            return f"{_names(behind)} made no progress {since} while the others waited, hanging"
        return f"no rank has made progress {since}, all of them at the same place: one hangs in a collective"

    def missing(self, now, patience, timeout):
        """A line on the ranks that are silent for `patience` seconds or behind which the others wait for `timeout`, or None."""
        standing = self.standing(now, timeout)
        # where nothing goes on, a rank that is silent too is the reason, though its last beat may be younger than the progress
        return self.silent(now, min(SILENCE, patience) if standing else patience) or standing


class Heartbeat:
    """A context manager around all that the ranks do together; with one rank it does nothing.

    A rank that died or hangs ends this process with exit status 1 and a line on stderr, which names the rank and
    `last_checkpoint()`, at the latest after `timeout` seconds. When the block fails on account of another rank, as a
    collective does whose partner died, it is named without waiting so long; so it is when a signal has asked this process to
    stop, as the launcher does when a rank of its machine has died. It must be entered in the main thread.
    """

    def __init__(self, timeout, last_checkpoint):
        self._timeout = timeout
        self._last_checkpoint = last_checkpoint
        self._ended = threading.Event()
        self._now = 0.0  # seconds that this process has run, without those for which it was itself stopped
        self._store_lost = False

    def __enter__(self):
        if ranks.count() > 1:
            self._ledger = Ledger(ranks.rank(), ranks.count())
            # NCCL waits for a dead rank inside C, where Python's handlers do not run: what arrives is read from a pipe
            self._signals, self._told = os.pipe()
            for end in (self._signals, self._told):
                os.set_blocking(end, False)
            self._former = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
            self._threads = [threading.Thread(target=work, daemon=True) for work in (self._exchange, self._watch)]
            for thread in self._threads:
                thread.start()
            # a collective that fails in a backward ends the process past all of Python: Paddle translates no gloo exception
            self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: self._explain())
            ctypes.CDLL(None).signal(signal.SIGABRT, self._on_abort)  # Python's handlers run only once C has returned
        return self

    def __exit__(self, kind, error, trace):
        if ranks.count() == 1:
            return
        if error is None:
            ranks.wait_for_all()  # the store ends with rank 0
        elif isinstance(error, Exception) and not isinstance(error, (UserError, FloatingPointError)):
            self._explain(error)
        ctypes.CDLL(None).signal(signal.SIGABRT, signal.SIG_DFL)
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * INTERVAL)  # not for ever: the store may not answer any more
        signal.set_wakeup_fd(self._former)

    def _exchange(self):
        """Send this rank's beats and hear the others'."""
        own, sent = ranks.rank(), Beat()
        try:
            store = _connect()
            while not self._ended.wait(INTERVAL):
                beat = Beat(sent.count + 1, ranks.progress.stage, ranks.progress.signs)
                for rank in range(ranks.count()):
                    added = [new - old for new, old in zip(beat, sent)] if rank == own else Beat()
                    fields = (f"beat/{rank}/{name}" for name in Beat._fields)
                    self._ledger.hear(rank, Beat(*map(store.add, fields, added)), self._now)
                sent = beat
        except Exception:  # Paddle's exceptions for a lost connection have no common type
            self._store_lost = True

    def _watch(self):
        """End the process once a rank is missing. Not in the other thread, which waits when rank 0 is stopped."""
        asked_to_stop, told, before = False, False, time.monotonic()
        while not self._ended.wait(INTERVAL):
            now = time.monotonic()
            self._now += min(now - before, 2 * INTERVAL)
            before = now
            patience = SILENCE if self._store_lost else self._timeout
            line = self._ledger.missing(self._now, patience, self._timeout)
            if line and not self._ended.is_set():
                self._give_up(line)
            asked_to_stop = asked_to_stop or self._signal_came()
            waits = asked_to_stop and self._ledger.idle(self._now) >= SILENCE
            if waits and not told and (line := self._ledger.silent(self._now, SILENCE)):
                told = True  # and wait on: it may only be slow to save a checkpoint
                self._print(line)

    def _signal_came(self):
        """Whether one that Python handles has reached this process since the last call."""
        try:
            return bool(os.read(self._signals, 4096))
        except BlockingIOError:
            return False

    def _explain(self, error=None):
        """End the process with the name of the rank on whose account it fails, if there is one."""
        for _ in range(round(2 * SILENCE / INTERVAL)):
            if line := self._ledger.silent(self._now, SILENCE):
                if error is not None:
                    traceback.print_exception(error)
                self._give_up(line)
            time.sleep(INTERVAL)

    def _give_up(self, line):
        self._print(line)
        sys.stdout.flush()
        os._exit(1)  # not sys.exit: the main thread does not come back, and destroying a process group waits for its partners

    def _print(self, line):
        print(f"error: {line}; last good checkpoint: {self._last_checkpoint() or 'none yet'}", file=sys.stderr, flush=True)


def _connect():
    """A connection of its own: requests of two threads on one would mix."""
    from paddle.base import core

    host, port = os.environ["PADDLE_MASTER"].rsplit(":", 1)
    return core.TCPStore(host, int(port), False, 0)


def _names(numbers):
    return f"rank {numbers[0]} has" if len(numbers) == 1 else f"ranks {', '.join(map(str, numbers))} have"
