import importlib.metadata

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from rdrop_paddle.text import rouge

SUMMARIES = ["The cats sat on the mats. One slept!", "Nobody came.", "", "a b c d e f g"]
REFERENCES = [
    ("A cat sits on a mat. It is sleeping.", "Two cats slept. They sat on mats."),
    ("Everybody left.", "nobody comes"),
    ("Something.", "Else."),
    ("g f e d c b a", "a b c x e f g"),
]


def f_measures(kind, prepare=lambda text: text):
    """rouge-score's of each summary with each reference, [4, 2], with stems of words."""
    scorer = RougeScorer([kind], use_stemmer=True)
    return np.asarray(
        [[scorer.score(prepare(one), prepare(summary))[kind].fmeasure for one in references]
         for summary, references in zip(SUMMARIES, REFERENCES)]
    )  # fmt: skip


def test_scores_are_means_over_samples_of_means_over_their_references():
    found = rouge.scores(sum(map(rouge.counts, SUMMARIES, REFERENCES)))
    for name, kind in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
        expected = f_measures(kind)
        assert 0 < expected.mean() < expected.max(axis=1).mean()  # the best reference would be another score
        assert found[name] == pytest.approx(100 * expected.mean(), abs=1e-7)
    sentences = f_measures("rougeLsum", lambda text: text.replace(". ", ".\n").replace("! ", "!\n"))
    assert found["ROUGE-Lsum"] == pytest.approx(100 * sentences.mean(), abs=1e-7)
    assert found["ROUGE-Lsum"] != found["ROUGE-L"]


def test_counts_are_integers_whose_sums_have_no_order():
    counts = [rouge.counts(*pair) for pair in zip(SUMMARIES, REFERENCES)]
    assert {one.dtype for one in counts} == {np.dtype("int64")}
    assert 2_000_000 * rouge.UNIT < 2**53  # what float64 adds up exactly


def test_the_signature_names_what_the_scores_depend_on():
    version = importlib.metadata.version("rouge-score")
    assert rouge.signature(1) == f"rouge-score {version}, F-measure, Porter stemmer, mean over samples"
    assert rouge.signature(3).endswith("mean over samples of the mean over 3 references")
