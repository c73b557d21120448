"""What tasks share whose micro-batches hold so many tokens, as the engine sees them, see training/engine.py."""

import functools

from .. import ranks
from ..config import data_root
from ..console import say
from ..training.criterion import FusedLinearCriterion
from ..weights.loading import find_weights
from . import batches


class TokenTask:
    """Holds the Config of a task, which is a subclass of it with

    - `tokens`, and `load_weights(path)` -> WeightReport, which takes over those of the weights
    - `lengths(split)` -> int64 [N], of what the split has in tokens, and `fingerprint(split)` of its text

    `weight_report` tells how `model.weights` were loaded, or is None.

    Args:
        layers: how many the model has, of which `rdrop.shared_blocks` are some.
    """

    def __init__(self, config, layers):
        self.config = config
        self.rank, self.ranks = ranks.rank(), ranks.count()
        self.criterion = FusedLinearCriterion(config)
        config.rdrop.check_shared(layers)
        self.weight_report = None

    def load_initial_weights(self):
        """The weights `model.weights`, with their tokens; random ones when it is empty."""
        if self.config.model.weights:
            path = find_weights(self.config.model.weights, data_root())
            say(f"reading the weights {path}")
            self.weight_report = self.load_weights(path)

    def read_splits(self):
        """Read every split that training will need: a fault in one ends the run now and not after training."""
        for split in dict.fromkeys(("train", "val", self.config.eval.split)):
            self.lengths(split)

    def data_state(self, updates):
        """What the batches after so many updates follow from, of JSON values: the data, their tokens, and the epoch."""
        epoch, done = divmod(updates, self.updates_of_epoch)
        return {**self._fingerprints, "epoch": epoch, "updates_of_epoch": done}

    @functools.cached_property
    def updates_of_epoch(self):
        config = self.config
        return batches.updates_of_epoch(self.lengths("train"), config.data.max_tokens, config.train.accumulation)

    @functools.cached_property
    def _fingerprints(self):
        return {split: self.fingerprint(split) for split in ("train", "val")} | {"tokens": self.tokens.fingerprint()}
