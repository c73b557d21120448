"""The drawing of the method: a batch, two passes with dropout masks of their own, two cross entropies and the divergence.

Its words are formulas and terms of the field, so that it serves readers of any language.
"""

from itertools import pairwise, product

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from .plots import BLUE, GREEN, VERMILLION, styled

INK, PALE = "#333333", "#BBBBBB"
UPPER, MIDDLE, LOWER = 5.3, 3.55, 1.8  # heights of the passes, and of what lies between them; units of 1/2 inch
DROPPED = ({(0, 1), (1, 3), (2, 0), (2, 2), (3, 3)}, {(0, 2), (0, 3), (1, 0), (2, 3), (3, 1)})  # (layer, unit) of each mask
P, Q = (0.06, 0.13, 0.52, 0.18, 0.07, 0.04), (0.10, 0.08, 0.38, 0.30, 0.04, 0.10)  # made up, alike but not equal


@styled
def method_figure():
    figure = Figure(figsize=(8.5, 4))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 17), ylim=(-0.8, 7.2))
    axes.set_axis_off()
    _batch(axes, 0.3, MIDDLE)
    _arrow(axes, (1.65, MIDDLE), (2.15, MIDDLE))
    _box(axes, 3.2, MIDDLE, 1.9, 1.3, INK, "embedding\n" + r"$1\times$")
    for height, dropped, mask, colour, chances, letter in (
        (UPPER, DROPPED[0], "m_1", BLUE, P, "P"),
        (LOWER, DROPPED[1], "m_2", VERMILLION, Q, "Q"),
    ):
        side = 1 if height == UPPER else -1
        _arrow(axes, (4.25, MIDDLE + side * 0.1), (5.1, height))
        _network(axes, 5.2, height, dropped, colour)
        axes.text(6.9, height + side * 1.32, rf"dropout mask ${mask}$", color=colour, ha="center", va="center")
        _arrow(axes, (8.7, height), (9.6, height))
        _distribution(axes, 9.7, height, chances, colour)
        axes.text(10.6, height + side * 1.32, rf"${letter}$", color=colour, ha="center", va="center", fontsize=13)
        _arrow(axes, (11.6, height), (12.3, height))
        _box(axes, 13.4, height, 2, 0.9, colour, rf"$\mathrm{{CE}}({letter},\, y)$")
        _arrow(axes, (14.5, height - side * 0.1), (15.95, MIDDLE + side * 0.5))
        axes.text(15.45, MIDDLE + side * 1.25, r"$\frac{1}{2}$", color=colour, ha="center", va="center", fontsize=13)
        _arrow(axes, (11.6, height - side * 0.55), (12.2, MIDDLE + side * 0.35))
    _arrow(axes, (6.9, UPPER - 1.05), (6.9, LOWER + 1.05), style="<|-|>", colour=PALE)
    axes.text(7.15, MIDDLE, r"same weights $\theta$", va="center", color=INK)
    _box(axes, 13.4, MIDDLE, 2.2, 1.3, GREEN, "$\\mathrm{KL}(P\\,\\Vert\\,Q)$\n" + r"$+\;\mathrm{KL}(Q\,\Vert\,P)$")
    _arrow(axes, (14.6, MIDDLE), (15.65, MIDDLE))
    axes.text(15.1, MIDDLE + 0.35, r"$\frac{\alpha}{2}$", color=GREEN, ha="center", va="center", fontsize=13)
    _box(axes, 16.2, MIDDLE, 0.9, 0.9, INK, r"$\mathcal{L}$")
    _formula(axes)
    return figure


def _box(axes, x, y, width, height, colour, words):
    """A rounded box around a point."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 0.15, y - height / 2 + 0.15),
            width - 0.3,
            height - 0.3,
            boxstyle="round,pad=0.15",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.4,
        )
    )
    axes.text(x, y, words, ha="center", va="center", color=colour, linespacing=1.4)


def _arrow(axes, start, end, style="-|>", colour=INK):
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=10, color=colour, linewidth=1.1, shrinkA=0, shrinkB=0)
    )


def _batch(axes, x, y):
    """Images behind one another, the first with a hill and a sun."""
    for behind in (2, 1, 0):
        corner = (x + 0.13 * behind, y - 0.5 + 0.13 * behind)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor=INK, linewidth=1))
    hills = [(x, y - 0.5), (x, y - 0.2), (x + 0.3, y + 0.1), (x + 0.5, y - 0.1), (x + 0.7, y + 0.05), (x + 1, y - 0.3)]
    axes.add_patch(Polygon([*hills, (x + 1, y - 0.5)], facecolor="#8A8A8A", edgecolor=INK, linewidth=1))
    axes.add_patch(Circle((x + 0.72, y + 0.26), 0.11, facecolor="#C8C8C8", edgecolor=INK, linewidth=1))
    axes.text(x + 0.5, y - 0.95, r"$x$", ha="center", va="center", color=INK, fontsize=13)


def _network(axes, x, y, dropped, colour):
    """Four layers of four units; those that the mask drops are dashed and lead nowhere."""
    axes.add_patch(
        FancyBboxPatch(
            (x + 0.15, y - 0.85), 3.1, 1.7, boxstyle="round,pad=0.15", facecolor="#F7F7F7", edgecolor=colour, linewidth=1.4
        )
    )
    layers = [[(x + 0.5 + 0.8 * layer, y - 0.66 + 0.44 * unit) for unit in range(4)] for layer in range(4)]
    for layer, (here, there) in enumerate(pairwise(layers)):
        for (one, start), (other, end) in product(enumerate(here), enumerate(there)):
            if (layer, one) not in dropped and (layer + 1, other) not in dropped:
                axes.plot(*zip(start, end), color=PALE, linewidth=0.6, zorder=2)
    for (layer, units), unit in product(enumerate(layers), range(4)):
        gone = (layer, unit) in dropped
        look = dict(facecolor="white", edgecolor=PALE, linestyle=":") if gone else dict(facecolor=colour, edgecolor=colour)
        axes.add_patch(Circle(units[unit], 0.14, zorder=3, linewidth=1, **look))


def _distribution(axes, x, y, chances, colour):
    """Probabilities as bars on a line."""
    left = x + 0.15 + 0.27 * np.arange(len(chances))
    for corner, chance in zip(left, chances):
        axes.add_patch(Rectangle((corner, y - 0.7), 0.22, 2.6 * chance, facecolor=colour, linewidth=0))
    axes.plot([x, x + 1.85], [y - 0.7] * 2, color=INK, linewidth=1)


def _formula(axes):
    """The loss, each term in the colour of its box."""
    terms = (
        (r"$\mathcal{L}\;=\;\frac{1}{2}\,[\,$", INK),
        (r"$\mathrm{CE}(P, y)$", BLUE),
        ("$+$", INK),
        (r"$\mathrm{CE}(Q, y)$", VERMILLION),
        (r"$]\;+\;\alpha\,\cdot$", INK),
        (r"$\frac{1}{2}\,[\,\mathrm{KL}(P\,\Vert\,Q)\,+\,\mathrm{KL}(Q\,\Vert\,P)\,]$", GREEN),
    )
    areas = [TextArea(words, textprops=dict(color=colour, fontsize=12.5)) for words, colour in terms]
    line = HPacker(children=areas, align="baseline", pad=0, sep=4)
    axes.add_artist(AnchoredOffsetbox("lower center", child=line, frameon=False, pad=0, borderpad=0.2))
