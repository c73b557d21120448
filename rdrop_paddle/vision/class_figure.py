"""The figure of an evaluation: accuracy of each class, and what is confused with what."""

import numpy as np
from matplotlib.figure import Figure

from ..reporting.plots import BLUE, SKY, VERMILLION, styled


@styled
def evaluation_figure(found, named=5, pairs=10):
    """Accuracy by class, sorted, and the most frequent errors, of Predictions (see class_predictions.py).

    Args:
        named: how many of the worst and of the best classes are named.
        pairs: how many pairs of classes that are confused.
    """
    figure = Figure(figsize=(8.5, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    total, mean = len(found.labels), 100 * found.correct / len(found.labels)
    left.set_title(f"accuracy {mean:.2f} % ({found.correct}/{total})", fontweight="bold")
    accuracies = 100 * found.class_accuracies()
    order = np.argsort(accuracies, kind="stable")[: np.isfinite(accuracies).sum()]  # NaN comes last
    left.plot(np.arange(1, len(order) + 1), accuracies[order], "o", color=BLUE, markersize=3.5)
    left.axhline(mean, color=VERMILLION, linewidth=1, linestyle="--")
    below = dict(xycoords=("axes fraction", "data"), xytext=(0, -3), textcoords="offset points", ha="right", va="top")
    left.annotate("all images", (0.99, mean), color=VERMILLION, fontsize=8.5, **below)
    for title, classes, x, y, align in (
        ("worst", order[:named], 0.03, 0.98, "left"),
        ("best", order[::-1][:named], 0.99, 0.02, "right"),
    ):
        lines = [f"{_readable(found, number)} {accuracies[number]:.0f}" for number in classes]
        vertical = "top" if align == "left" else "bottom"
        left.text(x, y, "\n".join([f"{title}, %", *lines]), transform=left.transAxes, ha=align, va=vertical, fontsize=8.5)
    left.set_xlabel("classes, sorted by their accuracy")
    left.set_ylabel("accuracy of a class, %")
    _draw_pairs(right, found, found.confused_pairs(pairs))
    return figure


def _readable(found, number):
    return found.class_names[number].replace("_", " ")


def _draw_pairs(axes, found, confused):
    names = [f"{_readable(found, label)} → {_readable(found, predicted)}" for label, predicted, _ in confused]
    bars = axes.barh(np.arange(len(confused)), [count for _, _, count in confused], color=SKY, height=0.7)
    axes.bar_label(bars, padding=2, fontsize=8.5)
    axes.set_yticks(np.arange(len(confused)), names, fontsize=8.5)
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.set_title("most confused: true → predicted, images", loc="right")
