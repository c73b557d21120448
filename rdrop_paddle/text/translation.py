"""Translation as the engine sees it, see training/engine.py: model, batches, loss, counts and scores."""

from typing import NamedTuple

import numpy as np

from .. import ranks
from ..training.criterion import Criterion
from . import metrics
from .transformer import build_transformer

SHOWN = 3  # sentences that VisualDL shows the translations of


class Encoded(NamedTuple):
    """Pairs and their tokens, without BEGIN and END."""

    pairs: object  # parallel.Pairs
    source: list
    target: list

    def lengths(self):
        """int64 [N]: the longer side of each pair, with its END."""
        return np.asarray([1 + max(map(len, sides)) for sides in zip(self.source, self.target)])


class Translation:
    """Holds the model, the tokens and the data by a TranslationConfig."""

    count_names = (
        "loss", "positions",
        *(f"BLEU {n}" for n in range(metrics.BLEU_COUNTS)),
        *(f"tokenised BLEU {n}" for n in range(metrics.BLEU_COUNTS)),
        *(f"chrF {n}" for n in range(metrics.CHRF_COUNTS)),
    )  # fmt: skip

    def __init__(self, config, tokens=None):
        self.config = config
        self.rank, self.ranks = ranks.rank(), ranks.count()
        self._splits = {}
        self.tokens = tokens or self._learn_tokens()
        self.model = build_transformer(config.model, self.tokens.sizes)
        self.criterion = Criterion(config)

    def _learn_tokens(self):
        """The tokens of the training text: rank 0 learns and keeps them under RDROP_DATA, the others read them there."""
