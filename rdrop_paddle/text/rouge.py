"""ROUGE of summaries by rouge-score, as integers that add up over samples and ranks.

A score is a mean of F-measures of the samples, which no integers give exactly. Each is rounded to a multiple of 2**-32, so
that sums are exact in whatever order, and any number of ranks prints the same digits; a mean is off by 2**-33 at most.
"""

import functools
import importlib.metadata
import logging
import re

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

NAMES = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL", "ROUGE-Lsum": "rougeLsum"}
COUNT_NAMES = (*NAMES, "summaries")
UNIT = 2**32  # of an F-measure of 1; float64 holds the sums of two million samples


def counts(summary, references):
    """int64 [len(COUNT_NAMES)]: the mean of the F-measures of a summary with each of its references, and 1."""
    found = [_scorer().score(_a_sentence_a_line(reference), _a_sentence_a_line(summary)) for reference in references]
    means = [sum(scores[name].fmeasure for scores in found) / len(found) for name in NAMES.values()]
    return np.asarray([*(round(UNIT * mean) for mean in means), 1], "int64")


def scores(counts):
    """{"ROUGE-1": ..., "ROUGE-2": ..., "ROUGE-L": ..., "ROUGE-Lsum": ...}, each from 0 to 100, of summed `counts`.

    ROUGE-L compares whole texts; ROUGE-Lsum, which papers on CNN/DailyMail call ROUGE-L, sentence by sentence.
    """
    *totals, samples = map(int, counts)
    return {name: 100 * total / (UNIT * samples) for name, total in zip(NAMES, totals)}


def signature(references):
    """What the scores depend on, in words; `references`: how many a sample has."""
    aggregation = "mean over samples" + (f" of the mean over {references} references" if references > 1 else "")
    version = importlib.metadata.version("rouge-score")
    return f"rouge-score {version}, F-measure, Porter stemmer, {aggregation}"


def _a_sentence_a_line(text):
    """As ROUGE-Lsum wants it; a sentence ends with . ! or ? before a space."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text)


@functools.cache
def _scorer():
    logging.getLogger("absl").setLevel("WARNING")  # it would say which tokenizer it has
    return RougeScorer(list(NAMES.values()), use_stemmer=True)
