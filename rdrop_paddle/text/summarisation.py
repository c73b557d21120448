"""Summarisation as the engine sees it, see training/engine.py and sequence_to_sequence.py: its data, tokens and scores."""

from . import rouge
from .sequence_to_sequence import SequenceToSequence
from .summaries import read_split
from .tokens import train_tokens


class Summarisation(SequenceToSequence):
    """By a SummarisationConfig."""

    answer, cuts_sources = "summary", True
    answer_count_names = rouge.COUNT_NAMES
    token_settings = ("vocabulary_size", "lowercase")

    def __init__(self, config):
        super().__init__(config)
        self._references = {}

    def read(self, split):
        pairs, self._references[split] = read_split(self.config.data, split)
        return pairs

    def learn(self):
        config = self.config.data
        options = dict(vocabulary_size=config.vocabulary_size, lowercase=config.lowercase)
        return train_tokens(self.config.languages, self.pairs("train"), joint=True, **options)

    def references(self, split):
        """[(summary, ...)]: all of each source."""
        self.pairs(split)
        return self._references[split]

    def answer_counts(self, summary, references):
        return rouge.counts(summary, references)

    def answer_scores(self, counts):
        return rouge.scores(counts)

    def signature(self):
        return rouge.signature(len(self.references(self.config.eval.split)[0]))
