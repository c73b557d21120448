"""Telling a person what a long step does: lines on stderr, from rank 0 alone, with a terminal or without."""

import os
import sys
import time

from tqdm import tqdm

PATIENCE = 10.0  # seconds without a word after which a step says how far it is


def say(text):
    if int(os.environ.get("PADDLE_TRAINER_ID", 0)) == 0:  # Paddle, which knows the rank, may not have been imported yet
        tqdm.write(text, file=sys.stderr)  # above a progress bar, if there is one


class Patience:
    """Says how far a step of `total` parts is, when nothing has been said for PATIENCE seconds."""

    def __init__(self, text, total):
        self.text, self.total = text, total
        self.restart()

    def restart(self):
        self._since = time.monotonic()

    def done(self, count):
        if time.monotonic() - self._since > PATIENCE:
            say(f"{self.text} {count}/{self.total}")
            self.restart()


def reported(items, text, total):
    """The `total` items of an iterable, with what Patience says between them."""
    patience = Patience(text, total)
    for count, item in enumerate(items):
        patience.done(count)
        yield item
