"""Translation as the engine sees it, see training/engine.py and sequence_to_sequence.py: its data, tokens and scores."""

from . import bleu
from .corpora import read_split
from .sequence_to_sequence import SequenceToSequence
from .tokens import train_tokens


class Translation(SequenceToSequence):
    """By a TranslationConfig."""

    answer, cuts_sources = "translation", False
    answer_count_names = bleu.COUNT_NAMES
    token_settings = ("vocabulary", "vocabulary_size", "lowercase", "moses", "source", "target")

    def read(self, split):
        return read_split(self.config.data, split)

    def learn(self):
        config = self.config.data
        options = dict(vocabulary_size=config.vocabulary_size, lowercase=config.lowercase, moses=config.moses)
        return train_tokens(self.config.languages, self.pairs("train"), joint=config.vocabulary == "joint", **options)

    def references(self, split):
        return self.pairs(split).target

    def answer_counts(self, translation, reference):
        return bleu.counts(translation, reference, self.config.data.target)

    def answer_scores(self, counts):
        return bleu.scores(counts)

    def signature(self):
        return bleu.signature()
