"""The scores of GLUE, arXiv 1804.07461, as scikit-learn and scipy define them, the same to the digit on any number of ranks.

Those of classes follow from a confusion matrix, integers that add up. Correlations are not taken from sums of products, which
rounding would make depend on who has added what: each prediction is put in its own place of a vector that is zero elsewhere,
so that adding the vectors of all ranks loses nothing, and the correlation is computed of the whole in the order of the data.
Where a score is not defined it is 0, as scikit-learn's F1 and Matthews are: a constant goes with nothing. scipy's correlations
are NaN there, with which no two weights could be compared.
"""

import math

import numpy as np

from ..errors import UserError


def confusion(labels, predictions, classes):
    """int64 [classes, classes]: how many examples of the row's label were predicted to be of the column's class.

    Args:
        labels, predictions: [N], integers below `classes`.
    """
    cells = np.asarray(labels) * classes + np.asarray(predictions)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix):
    """The share of the examples of a confusion matrix that were predicted right, 0 to 1."""
    return int(np.trace(matrix)) / int(np.sum(matrix))


def f1(matrix):
    """F1 of class 1, as GLUE takes it for MRPC and QQP, 0 to 1; 0 where it was neither there nor predicted."""
    labelled, predicted = _margins(matrix)
    both = labelled[1] + predicted[1]
    return 2 * int(matrix[1][1]) / both if both else 0.0


def matthews(matrix):
    """Matthews' correlation coefficient of any number of classes, -1 to 1; 0 where labels or predictions are all alike."""
    labelled, predicted = _margins(matrix)
    total = sum(labelled)
    covariance = int(np.trace(matrix)) * total - sum(t * p for t, p in zip(labelled, predicted))
    of_labels, of_predictions = (total * total - sum(n * n for n in margin) for margin in (labelled, predicted))
    return covariance / math.sqrt(of_labels * of_predictions) if of_labels and of_predictions else 0.0


def placed(indices, predictions, size):
    """float64 [2, size]: predictions [N] in the places of their examples, and how often each was predicted; they add up."""
    found = np.zeros([2, size])
    found[0, indices] = predictions
    found[1, indices] = 1
    return found


def gathered(summed):
    """The predictions, float64 [size], from the sum of `placed` over all batches and ranks.

    Raises:
        ValueError: an example was not predicted exactly once.
    """
    predictions, times = summed
    if (times != 1).any():
        raise ValueError(f"{int((times != 1).sum())} of {len(times)} examples were not predicted exactly once")
    return predictions


def pearson(predictions, values):
    """Pearson's correlation of two vectors [N], -1 to 1; 0 where one of them is constant.

    Raises:
        UserError: a prediction is NaN or infinite.
    """
    return _correlation(_finite(predictions), np.asarray(values, "float64"))


def spearman(predictions, values):
    """Pearson's correlation of the ranks, of which equal numbers share the mean of theirs; 0 and errors as of `pearson`."""
    from scipy.stats import rankdata  # takes a second to import, which other scores have no use for

    return _correlation(rankdata(_finite(predictions)), rankdata(values))


def _margins(matrix):
    """How many examples were labelled, and how many predicted, to be of each class, as integers of any size."""
    return np.sum(matrix, axis=1).tolist(), np.sum(matrix, axis=0).tolist()


def _finite(predictions):
    predictions = np.asarray(predictions, "float64")
    if broken := int((~np.isfinite(predictions)).sum()):
        said = f"{broken} of {len(predictions)} predictions are NaN or infinite"
        raise UserError(f"{said}: take weights of before the training broke")
    return predictions


def _correlation(x, y):
    if any((numbers == numbers[:1]).all() for numbers in (x, y)):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1, 1))
