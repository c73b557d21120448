"""GLUE's scores held against scikit-learn and scipy, on random and on degenerate predictions."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

from rdrop_paddle import UserError
from rdrop_paddle.text.classification_metrics import (
    accuracy,
    confusion,
    f1,
    gathered,
    matthews,
    pearson,
    placed,
    spearman,
)

SEVERAL = settings(max_examples=30, deadline=None, derandomize=True, database=None)
NUMBERS = st.integers(-20, 20).map(lambda number: number / 4)  # with many that are equal


def of_classes(classes):
    one = st.integers(0, classes - 1)
    return st.lists(st.tuples(one, one), min_size=1, max_size=30).map(lambda pairs: np.array(pairs).T)


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_of_classes_are_scikit_learns_also_where_all_are_alike(classes):
    @given(of_classes(classes))
    @SEVERAL
    def check(pairs):
        labels, predictions = pairs
        matrix = confusion(labels, predictions, classes)
        np.testing.assert_array_equal(matrix, confusion_matrix(labels, predictions, labels=range(classes)))
        assert matrix.dtype == np.int64
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's where a score is not defined
            assert accuracy(matrix) == pytest.approx(accuracy_score(labels, predictions), abs=1e-15)
            expected = f1_score(labels == 1, predictions == 1, zero_division=0)
            assert f1(matrix) == pytest.approx(expected, abs=1e-15)
            assert matthews(matrix) == pytest.approx(matthews_corrcoef(labels, predictions), abs=1e-14)

    check()


@pytest.mark.parametrize("label, prediction", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_predictions_of_one_class_alone_have_no_correlation_and_never_nan(label, prediction):
    matrix = confusion([label] * 7, [prediction] * 7, 2)
    assert (accuracy(matrix), f1(matrix), matthews(matrix)) == (float(label == prediction), float(label * prediction), 0.0)
    mixed = confusion([0, 1, 1], [prediction] * 3, 2)
    assert matthews(mixed) == 0.0 and f1(mixed) == (0.8 if prediction else 0.0)


def test_large_counts_do_not_overflow():
    assert matthews(np.array([[5_000_000_000, 0], [0, 3_000_000_000]])) == 1.0


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30))
@SEVERAL
def test_correlations_are_scipys_and_0_where_those_are_nan(pairs):
    predictions, values = np.array(pairs).T
    for ours, theirs in ((pearson, pearsonr), (spearman, spearmanr)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's of a constant
            expected = theirs(predictions, values).statistic
        constant = len({*predictions}) == 1 or len({*values}) == 1
        assert np.isnan(expected) == constant
        assert ours(predictions, values) == (0.0 if constant else pytest.approx(expected, abs=1e-12))


def test_correlations_of_float32_on_the_scale_of_sts_b_are_scipys():
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 5, 1500).round(1)
    predictions = (values + rng.normal(0, 1, 1500)).astype("float32")
    assert pearson(predictions, values) == pytest.approx(pearsonr(predictions.astype("float64"), values).statistic, abs=1e-14)
    assert spearman(predictions, values) == pytest.approx(spearmanr(predictions, values).statistic, abs=1e-14)
    assert pearson(values, 3 * values + 1) <= 1


@pytest.mark.parametrize("score", [pearson, spearman])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_predictions_that_are_no_numbers_are_an_error(score, broken):
    with pytest.raises(UserError, match="1 of 3 predictions are NaN or infinite"):
        score([1.0, broken, 2.0], [1.0, 2.0, 3.0])


def test_correlations_are_the_same_to_the_bit_on_any_number_of_ranks_and_in_any_batches():
    rng, size = np.random.default_rng(1), 101
    predictions, values = rng.normal(size=size).astype("float32"), rng.normal(size=size)
    found = set()
    for ranks in (1, 2, 3):
        batches = np.array_split(rng.permutation(size), 4 * ranks)
        of_ranks = [sum(placed(part, predictions[part], size) for part in batches[rank::ranks]) for rank in range(ranks)]
        whole = gathered(sum(of_ranks))
        np.testing.assert_array_equal(whole, predictions)
        found.add((pearson(whole, values), spearman(whole, values)))
    assert len(found) == 1


@pytest.mark.parametrize("parts", [[[0, 1]], [[0, 1, 2], [2]]], ids=["missing", "twice"])
def test_an_example_that_was_not_predicted_exactly_once_is_noticed(parts):
    with pytest.raises(ValueError, match="1 of 3 examples were not predicted exactly once"):
        gathered(sum(placed(part, [0.5] * len(part), 3) for part in parts))
