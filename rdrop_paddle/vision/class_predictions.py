"""What a model answers for each image: kept during an evaluation, written as CSV, read again, counted by class."""

import csv
from dataclasses import dataclass
from typing import List

import numpy as np

from ..errors import UserError

COLUMNS = ["index", "label", "prediction", "label_name", "prediction_name"]


class Recorder:
    """A task for `engine.evaluate` that also keeps what the model of `task` answers for the images of this rank."""

    def __init__(self, task):
        self._task = task
        self._answers = []  # of each batch: indices and predicted classes, int64 tensors [N]

    def __getattr__(self, name):
        return getattr(self._task, name)

    def evaluate(self, model, batch):
        logits, labels = self._task.forward(model, batch)
        self._answers.append((batch[-1], logits.argmax(axis=-1)))
        return self._task.counts(logits, labels)

    def write(self, path, split):
        """Write one line per image of the split, in the data's order; rank 0 does, but all ranks must call it."""
        import paddle  # a reader of the file has no use for it

        from .. import ranks

        images = self.images(split)
        predicted = np.zeros(len(images.labels), "int64")
        for indices, answers in self._answers:
            predicted[indices.numpy()] = answers.numpy()
        predicted = ranks.sum_over_all(paddle.to_tensor(predicted)).numpy()  # each image was seen on one rank only
        if ranks.rank() == 0:
            write(path, Predictions(images.labels, predicted, images.class_names))


@dataclass(frozen=True)
class Predictions:
    """The classes of each image of a split."""

    labels: np.ndarray  # int64 [N]
    predicted: np.ndarray  # int64 [N]
    class_names: List[str]

    @property
    def correct(self):
        return int((self.labels == self.predicted).sum())

    def class_accuracies(self):
        """The share of each class's images that are right, float64 [classes]; NaN for a class without images."""
        totals = np.bincount(self.labels, minlength=len(self.class_names))
        right = np.bincount(self.labels[self.labels == self.predicted], minlength=len(self.class_names))
        return np.divide(right, totals, out=np.full(len(totals), np.nan), where=totals > 0)

    def confused_pairs(self, most):
        """The `most` frequent errors as (label, prediction, images), the most frequent first, ties in the classes' order."""
        wrong = self.labels != self.predicted
        pairs, counts = np.unique(np.stack([self.labels[wrong], self.predicted[wrong]]), axis=1, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        return [(int(pairs[0, n]), int(pairs[1, n]), int(counts[n])) for n in order]


def write(path, predictions):
    names = predictions.class_names
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, (label, predicted) in enumerate(zip(predictions.labels, predictions.predicted)):
            writer.writerow([index, label, predicted, names[label], names[predicted]])


def read(path):
    """The Predictions of a file that `write` has written; a class that the file does not name has its number as name.

    Raises:
        UserError: it is absent, or another kind of file.
    """
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        labels, predicted = (np.asarray([int(row[column]) for row in rows], "int64") for column in ("label", "prediction"))
        names = {int(row[column]): row[f"{column}_name"] for row in rows for column in ("label", "prediction")}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, ValueError, TypeError):  # no such column, no number, a line that is cut
        raise UserError(
            f"{path} is no file of predictions ({','.join(COLUMNS)}): tools/eval.py --predictions writes one"
        ) from None
    if not rows:
        raise UserError(f"{path} holds no prediction: write it again with tools/eval.py --predictions")
    return Predictions(labels, predicted, [names.get(number, str(number)) for number in range(max(names) + 1)])
