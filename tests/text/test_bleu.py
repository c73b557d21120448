"""Scores from summed integers held against sacrebleu's own of the whole corpus, to the last digit."""

import sacrebleu
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rdrop_paddle.text import bleu as metrics

WORDS = "a the dog dog's runs , . ! 3.5 1,000 U.S. Männer \u201equote\u201c &amp; - x-y <b> \u72ac"
SENTENCES = st.lists(st.sampled_from([*WORDS.split()]), max_size=9).map(" ".join) | st.text(max_size=12)
CORPORA = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=12)
SEVERAL = settings(max_examples=30, deadline=None, derandomize=True, database=None)
DIFFERENT = [("a dog runs fast .", "the dog runs fast ."), ("two men watch it run , too", "two men watch it run")]


def summed(counts):
    return [sum(column) for column in zip(*counts)]


@given(CORPORA)
@example([("a dog", "a dog")])  # too short for some of the n-grams
@SEVERAL
def test_bleu_of_summed_counts_is_sacrebleus(pairs):
    translations, references = map(list, zip(*pairs))
    counts = [metrics.bleu_counts(*pair) for pair in pairs]
    assert {type(number) for one in counts for number in one} == {int} and {*map(len, counts)} == {metrics.BLEU_COUNTS}
    assert metrics.bleu(summed(counts)) == sacrebleu.corpus_bleu(translations, [references], force=True).score


@given(CORPORA)
@SEVERAL
def test_tokenised_bleu_of_summed_counts_is_sacrebleus(pairs):
    translations, references = map(list, zip(*pairs))
    counts = [metrics.bleu_counts(*pair, metrics.TOKENISED) for pair in pairs]
    expected = sacrebleu.corpus_bleu(translations, [references], tokenize="none", force=True)
    assert metrics.bleu(summed(counts), metrics.TOKENISED) == expected.score


@given(CORPORA)
@SEVERAL
def test_chrf_of_summed_counts_is_sacrebleus(pairs):
    translations, references = map(list, zip(*pairs))
    counts = [metrics.chrf_counts(*pair) for pair in pairs]
    assert {type(number) for one in counts for number in one} == {int} and {*map(len, counts)} == {metrics.CHRF_COUNTS}
    assert metrics.chrf(summed(counts)) == sacrebleu.corpus_chrf(translations, [references]).score


@given(CORPORA, st.integers(1, 3), st.randoms())
@SEVERAL
def test_who_counts_what_in_which_order_makes_no_difference(pairs, ranks, random):
    shuffled = random.sample(pairs, len(pairs))
    parts = [part for rank in range(ranks) if (part := shuffled[rank::ranks])]
    for count, score in ((metrics.bleu_counts, metrics.bleu), (metrics.chrf_counts, metrics.chrf)):
        whole = summed(count(*pair) for pair in pairs)
        assert summed(summed(count(*pair) for pair in part) for part in parts) == whole
        assert score([float(number) for number in whole]) == score(whole)  # as they come from a sum over the ranks


def test_scores_are_of_a_known_size():
    bleu, chrf = (summed(count(*pair) for pair in DIFFERENT) for count in (metrics.bleu_counts, metrics.chrf_counts))
    # 5 + 7 words against 5 + 5; 9, 7, 5 and 3 n-grams of 12, 10, 8 and 6 match; no penalty for a longer translation
    assert bleu == [12, 10, 9, 7, 5, 3, 12, 10, 8, 6]
    assert abs(metrics.bleu(bleu) - 100 * (9 / 12 * 7 / 10 * 5 / 8 * 3 / 6) ** 0.25) < 1e-9
    assert 60 < metrics.chrf(chrf) < 100
    same = [metrics.bleu_counts(reference, reference) for _, reference in DIFFERENT]
    assert abs(metrics.bleu(summed(same)) - 100) < 1e-9


def test_tokenised_text_is_split_at_spaces_alone():
    assert metrics.bleu_counts("dog's run.", "dog's run.", metrics.TOKENISED)[0] == 2
    assert metrics.bleu_counts("dog's run.", "dog's run.")[0] == 3


def test_no_counts_are_a_score_of_nothing():
    assert metrics.bleu([0] * metrics.BLEU_COUNTS) == metrics.chrf([0] * metrics.CHRF_COUNTS) == 0


def test_the_signature_is_sacrebleus():
    assert metrics.signature() == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
