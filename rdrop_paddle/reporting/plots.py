"""The figures of results: curves of logs, the leading score against alpha and against cost.

Each function returns a matplotlib Figure, which `save` writes. The colours are Okabe and Ito's, which the colour-blind tell
apart; the background is white, so that the pictures can be read on a dark page.
"""

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..console import say
from ..errors import UserError
from . import fonts
from .curves import curve

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MOST_ARMS = 2  # whose legend is among the curves; more have it below them
MOST_POINTS = 60  # of a curve; a figure with more, each of one noisy batch, shows little else than noise
LOSSES = {"train/loss": "loss", "train/ce": "cross entropy alone"}
SPLITS = {"val": "held-out", "test": "test"}
FORMATS = {  # by suffix: the metadata to leave out, dates and versions
    ".png": ("Software",),
    ".pdf": ("Creator", "Producer", "CreationDate"),
    ".svg": ("Creator", "Date"),
}
OF_THE_USER = [key for key in matplotlib.rcParams if key.startswith("font.") or key == "axes.unicode_minus"]
STYLE = {key: matplotlib.rcParams[key] for key in OF_THE_USER} | {
    "savefig.dpi": 200,
    "svg.hashsalt": "the same names of parts every time",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#E4E4E4",
    "legend.edgecolor": "none",
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "mathtext.fontset": "stix",
}
styled = matplotlib.style.context(["default", STYLE])  # of the user's matplotlibrc the fonts only


@styled
def save(figure, path):
    """Write the format that the suffix says, one of FORMATS; the same figure gives the same bytes.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    check_suffix(path)
    suffix = Path(path).suffix.lower()
    try:
        with warnings.catch_warnings():
            _choose_fonts(figure, path)
            figure.savefig(path, format=suffix[1:], metadata=dict.fromkeys(FORMATS[suffix]))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def check_suffix(path):
    """Raises a UserError unless a figure can be of the format that the suffix says."""
    if Path(path).suffix.lower() not in FORMATS:
        raise UserError(f"{path}: a figure's name ends in {', '.join(FORMATS)}")


def _choose_fonts(figure, path):
    """Have what is no ASCII drawn by fonts that have the characters, or say that there are none."""
    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    families, missing = fonts.families_for("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_fontfamily(families)
    if missing:
        some = "".join(sorted(missing)[:10])
        say(f"no font on this machine has {some}: boxes in {path}; install one, such as Debian's fonts-noto-cjk")
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # one for each character


def _name_of(split):
    return SPLITS.get(split, split)  # one of a task's own, such as MNLI's second test set, by its name


@styled
def log_figure(arms, measure, tags=None):
    """Curves over the updates, with mean and range of each arm's runs; a value that came once is a point at the end.

    Args:
        arms: {name: {path: log of a run}}, see curves.read_log.
        measure: the leading score of the task, a config.Measure.
        tags: a panel for each; None = training loss and leading score as this project logs them.

    Raises:
        UserError: a log lacks the tags of a panel.
    """
    of_score = {f"{split}/{measure.name}": words for split, words in SPLITS.items()}
    panels = {tag: {tag: tag} for tag in tags} if tags else {"training loss": LOSSES, measure.name: of_score}
    height = 3.7 if len(arms) <= MOST_ARMS else 5.5
    figure = Figure(figsize=(8.5 if len(panels) > 1 else 5.5, height * -(-len(panels) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(panels) // 2), min(len(panels), 2), squeeze=False).ravel()
    for axes, (title, panel) in zip(grid, panels.items()):
        _draw_panel(axes, arms, panel, title, percent=measure.in_percent and all(tag.endswith(measure.name) for tag in panel))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def _draw_panel(axes, arms, panel, title, percent):
    """`panel`: {tag: words}; `percent`: shares are meant, which logs of other projects may have in % already."""
    panel, in_words = list(panel), panel
    curves = {name: _curves(logs, panel) for name, logs in arms.items()}
    found = [one for of_arm in curves.values() for one in of_arm.values()]
    percent = percent and max(one.high.max() for one in found) <= 1
    only_points = all(len(one.steps) == 1 for one in found)
    for number, (name, of_arm) in enumerate(curves.items()):
        colour, runs = COLOURS[number % len(COLOURS)], len(arms[name])
        for tag, one in of_arm.items():
            label = f"{name}, {in_words[tag]}" if len(panel) > 1 else name
            one = one.scaled(100) if percent else one
            if len(one.steps) == 1:
                beside = panel.index(tag) + 0.2 * (number - (len(curves) - 1) / 2)
                _draw_point(axes, one, label, colour, beside if only_points else one.steps[0] * (1.03 + 0.03 * number))
            else:
                runs_in_words = f" ({runs} runs)" if runs > 1 and tag == panel[0] else ""
                axes.plot(one.steps, one.mean, "-" if tag == panel[0] else ":", color=colour, label=label + runs_in_words)
                if tag == panel[0]:  # a second band would hide the first
                    axes.fill_between(one.steps, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
    below = len(arms) > MOST_ARMS
    if only_points:
        axes.set_xticks(range(len(panel)), [in_words[tag] for tag in panel])
        axes.set_xlim(-0.6, len(panel) - 0.4)
        low, high = axes.get_ylim()
        if not below:
            axes.set_ylim(low, high + 0.7 * (high - low))  # room for the legend
    else:
        block = max(one.block for one in found)
        axes.set_xlabel("update" + (f" (means of {block} that were logged)" if block > 1 else ""))
    axes.set_ylabel(title + (", %" if percent else ""))
    spread = any((one.high > one.low).any() for one in found)
    place = dict(loc="upper center", bbox_to_anchor=(0.5, -0.17)) if below else {}
    axes.legend(title="mean and range (min to max)" if spread else None, alignment="left", **place)


def _curves(logs, panel):
    """{tag: Curve} of one arm; of a panel's tags the logs need one only, and a curve that is the first again is left out."""
    there = [tag for tag in panel if any(tag in log for log in logs.values())] or panel[:1]
    curves = {tag: curve(logs, tag, MOST_POINTS) for tag in there}
    first = curves[there[0]]
    return {tag: one for tag, one in curves.items() if one is first or not np.array_equal(one.mean, first.mean)}


def _draw_point(axes, one, label, colour, x):
    mean, low, high = one.mean[0], one.low[0], one.high[0]
    in_words = f"{label} {mean:.2f}" + (f" ({low:.2f} to {high:.2f})" if high > low else "")
    axes.errorbar(x, mean, [[mean - low], [high - mean]], fmt="D", color=colour, markersize=4, capsize=3, label=in_words)


@dataclass(frozen=True)
class Run:
    """What a figure needs of a row of runs.csv."""

    split: str
    score: float  # as shown
    alpha: float
    passes: int
    shared_blocks: int
    milliseconds: float  # per update


def read_runs(path, names, measure):
    """{name: [Run of each seed]} of the finished runs with these names in a runs.csv, see tools/run_experiments.py.

    Raises:
        UserError: the file is absent or of another kind; a name has no finished run; runs are scored on different splits.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        there = sorted({row["name"] for row in rows if row["status"] == "finished"})
        groups = {
            name: [_run(row, measure) for row in rows if row["name"] == name and row["status"] == "finished"] for name in names
        }
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:  # no such column, no number, a line that is cut
        raise UserError(f"{path} is no table of runs as tools/run_experiments.py writes it: {error}") from None
    for name, runs in groups.items():
        if not runs:
            raise UserError(f"{path} has no finished run named {name}, but {', '.join(there) or 'none at all'}")
    if len({run.split for runs in groups.values() for run in runs}) > 1:
        raise UserError(
            f"{path}: {', '.join(names)} are scored partly on test, partly on held-out data: choose runs of one kind"
        )
    return groups


def _run(row, measure):
    return Run(
        split=row["split"],
        score=measure.shown(row),
        alpha=float(row["alpha"]),
        passes=int(row["passes"]),
        shared_blocks=int(row["shared_blocks"]),
        milliseconds=float(row["milliseconds_per_update"]),
    )


@styled
def alpha_figure(groups, baseline, measure):
    """The leading score against alpha, a dot for each run; the group named `baseline` is the band. `groups`: see read_runs.

    Raises:
        UserError: two groups have the same alpha.
    """
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    band = [run.score for run in groups[baseline]]
    axes.axhspan(min(band), max(band), color=BLUE, alpha=0.15, linewidth=0)
    axes.axhline(np.mean(band), color=BLUE, label=f"baseline, mean and range of {seeds_in_words(band)}")
    by_alpha = {runs[0].alpha: runs for name, runs in groups.items() if name != baseline}
    if not by_alpha:
        raise UserError(f"there is nothing but the baseline {baseline}: name the runs to compare with it")
    if len(by_alpha) < len(groups) - 1:
        raise UserError(f"two of {', '.join(groups)} have the same alpha, so that something else differs: leave one out")
    alphas = sorted(by_alpha)
    spread = [[run.score for run in by_alpha[alpha]] for alpha in alphas]
    axes.plot(
        alphas,
        [np.mean(values) for values in spread],
        "o-",
        color=VERMILLION,
        label=f"R-Drop, mean and range of {seeds_in_words(*spread)}",
    )
    for alpha, values in zip(alphas, spread):
        axes.plot([alpha] * len(values), values, "o", color=VERMILLION, markersize=3, alpha=0.6)
        axes.plot([alpha] * 2, [min(values), max(values)], color=VERMILLION, linewidth=1, alpha=0.6)
    positive = [alpha for alpha in alphas if alpha > 0]
    if len(positive) < len(alphas):  # two passes without KL have no place on a logarithmic axis
        axes.set_xscale("symlog", linthresh=min(positive, default=1), linscale=0.5)
    else:
        axes.set_xscale("log")
    axes.set_xticks(alphas, [f"{alpha:g}" if alpha else "0\n(no KL)" for alpha in alphas])
    axes.minorticks_off()
    axes.set_xlabel(r"$\alpha$, weight of the KL divergence")
    axes.set_ylabel(f"{_name_of(groups[baseline][0].split)} {measure.label()}")
    axes.legend()
    return figure


def seeds_in_words(*groups):
    counts = sorted({len(values) for values in groups})
    return f"{' to '.join(map(str, counts[:: max(len(counts) - 1, 1)]))} seed{'s' if counts[-1] > 1 else ''}"


@styled
def cost_figure(groups, measure):
    """The leading score against the time of an update in the fastest run of each group: a dot a run, and their range.

    `groups`: see read_runs. The fastest, because what else a machine did, and which one it was, only adds.
    """
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    words = [_in_words(runs[0]) for runs in groups.values()]
    words = [word if words.count(word) == 1 else f"{word} ({name})" for name, word in zip(groups, words)]
    for runs, colour, label in zip(groups.values(), COLOURS * len(groups), words):
        time, scores = min(run.milliseconds for run in runs), np.asarray([run.score for run in runs])
        axes.plot([time] * len(runs), scores, "o", color=colour, markersize=3, alpha=0.6)
        mean = scores.mean()
        reach = [[mean - scores.min()], [scores.max() - mean]]
        axes.errorbar(time, mean, reach, fmt="D", color=colour, capsize=3, label=label)
    axes.set_xlim(0, 1.08 * axes.get_xlim()[1])
    axes.set_xlabel("time of an update, ms (fastest run)")
    axes.set_ylabel(f"{_name_of(next(iter(groups.values()))[0].split)} {measure.label()}")
    axes.legend(title=f"mean and range of {seeds_in_words(*groups.values())}", alignment="left")
    baseline = [run.milliseconds for runs in groups.values() for run in runs if run.passes == 1]
    if baseline:
        unit = min(baseline)
        top = axes.secondary_xaxis("top", functions=(lambda time: time / unit, lambda updates: updates * unit))
        top.set_xlabel("time in updates of the baseline")
        top.spines["top"].set_visible(True)
    return figure


def _in_words(run):
    if run.passes == 1:
        return "baseline"
    method = "R-Drop" if run.alpha else "two passes without KL"
    return f"{method}, {run.shared_blocks} blocks shared" if run.shared_blocks else method
