"""Scores of text as integers that add up over sentences and ranks, by sacrebleu.

BLEU and chrF of a whole corpus follow from sums of counts of n-grams, so that it does not matter who counted which sentence.
The counts are what sacrebleu keeps to itself; the tests hold them against its public scores.
"""

import functools

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from .tokens import Moses

METRICS = {"BLEU": BLEU(), "chrF": CHRF()}  # cased, detokenised text: BLEU splits words as mteval-v13a does
TOKENISED = BLEU(tokenize="none", force=True)
BLEU_COUNTS, CHRF_COUNTS = 10, 18  # how many integers
COUNT_NAMES = (
    *(f"BLEU {n}" for n in range(BLEU_COUNTS)),
    *(f"tokenised BLEU {n}" for n in range(BLEU_COUNTS)),
    *(f"chrF {n}" for n in range(CHRF_COUNTS)),
)


def bleu_counts(translation, reference, metric=METRICS["BLEU"]):
    """[length, length of the reference, matches of 1, 2, 3, 4 words, n-grams of 1, 2, 3, 4 words] of one sentence."""
    return metric._extract_corpus_statistics([translation], [[reference]])[0]


def bleu(counts, metric=METRICS["BLEU"]):
    """BLEU, 0 to 100, from summed `bleu_counts`."""
    return metric._compute_score_from_stats([int(count) for count in counts]).score


def chrf_counts(translation, reference):
    """[n-grams, those of the reference, matches] of 1 to 6 characters of one sentence."""
    return METRICS["chrF"]._extract_corpus_statistics([translation], [[reference]])[0]


def chrf(counts):
    """chrF2, 0 to 100, from summed `chrf_counts`."""
    return METRICS["chrF"]._compute_score_from_stats([int(count) for count in counts]).score


def signature():
    """What BLEU depends on, as sacrebleu says it."""
    metric = METRICS["BLEU"]
    metric.corpus_score(["a"], [["a"]])  # by which it learns the number of references
    return str(metric.get_signature())


def counts(translation, reference, language):
    """int64 [len(COUNT_NAMES)] of one sentence; they add up over sentences."""
    lowered = [_moses(language).split(text.lower()) for text in (translation, reference)]
    parts = bleu_counts(translation, reference), bleu_counts(*lowered, TOKENISED), chrf_counts(translation, reference)
    return np.concatenate(parts).astype("int64")


def scores(counts):
    """{"BLEU": ..., "chrF": ..., "lower-cased tokenised BLEU": ...}, each from 0 to 100, of summed `counts`.

    The last is what papers report on Moses tokens; what it is of another tokenizer or casing cannot be compared with it.
    """
    cased, tokenised, characters = np.split(np.asarray(counts), [BLEU_COUNTS, 2 * BLEU_COUNTS])
    return {"BLEU": bleu(cased), "chrF": chrf(characters), "lower-cased tokenised BLEU": bleu(tokenised, TOKENISED)}


@functools.cache
def _moses(language):
    return Moses(language)
