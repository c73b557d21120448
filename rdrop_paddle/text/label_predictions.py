"""What a model answers for each labelled text, as CSV."""

import csv

import numpy as np

OF_CLASSES = ("index", "label", "prediction", "label_name", "prediction_name")  # then the probability of each class
OF_NUMBERS = ("index", "label", "prediction")


def probabilities(logits):
    """The softmax of logits [N, classes], float64."""
    logits = np.asarray(logits, "float64")
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def write(path, labels, outputs, class_names):
    """Write a line for each example.

    Args:
        labels: [N], classes or numbers.
        outputs: [N, classes], logits; [N, 1] of numbers.
        class_names: of the classes, None of numbers.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if class_names is None:
            writer.writerow(OF_NUMBERS)
            writer.writerows([index, f"{label:g}", f"{out[0]:.6g}"] for index, (label, out) in enumerate(zip(labels, outputs)))
            return
        writer.writerow([*OF_CLASSES, *(f"probability_{name}" for name in class_names)])
        for index, (label, shares) in enumerate(zip(labels, probabilities(outputs))):
            best = int(shares.argmax())
            writer.writerow([index, label, best, class_names[label], class_names[best], *(f"{p:.6f}" for p in shares)])
