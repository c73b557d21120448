"""SIGTERM and SIGINT as a request to stop: training finishes the update, saves a checkpoint and says how to go on."""

import signal
import time

from .. import ranks


class Interruption:
    """Inside `with`, SIGTERM and SIGINT are requests that training asks for, and a second one does no harm. One per process.

    The ranks agree on their last update without waiting for each other, because signals reach them at different moments, or
    one of them only. Before a rank looks whether another wants to stop, it tells through the TCP store that it goes on to
    the next update. So the first that wants to stop finds there the furthest update that a rank has begun or is sure to
    begin: that is the last one for all.
    """

    def __init__(self):
        self.signal = None  # the number of the first one that reached this rank
        self._updates = 0  # that this rank has finished
        self._last = None  # of them, once the ranks have agreed

    def __enter__(self):
        self._former = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._former:
            signal.siginterrupt(number, False)  # Paddle's store takes an interrupted system call for a lost connection
        return self

    def __exit__(self, *error):
        if self.signal is not None:
            return  # the process is about to end, and a second signal would cut that short
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @property
    def cause(self):
        """The signal's name."""
        return "a signal to another rank" if self.signal is None else signal.Signals(self.signal).name

    @property
    def status(self):
        """The exit status that shells give a process which the signal ended: 143 or 130."""
        return 128 + (self.signal or signal.SIGTERM)

    def ends_training(self):
        """Whether the update just finished is the last: the same on every rank. All of them must ask after every update."""
        self._updates += 1
        wanted = self.signal is not None  # looked at once: the signal may come at any line
        if ranks.count() == 1:
            return wanted
        if not wanted:
            self._tally(f"begun/{ranks.rank()}", 1)
        if self._last is None:
            if wanted and self._tally("wanted", 1) == 1:
                self._last = 1 + max(self._tally(f"begun/{rank}") for rank in range(ranks.count()))
                self._tally("last", self._last)
            elif self._tally("wanted"):
                while not self._tally("last"):  # the rank that decides does so at once
                    time.sleep(0.01)
                self._last = self._tally("last")
        return self._updates == self._last

    def requested(self):
        """Whether a signal has reached any rank: what may be left unfinished, such as an evaluation, is to end now."""
        if ranks.count() == 1:
            return self.signal is not None
        return self._tally("wanted", int(self.signal is not None)) > 0

    def _tally(self, key, number=0):
        return ranks.tally(f"interruption/{key}", number)

    def _note(self, number, frame):
        self.signal = self.signal or number
