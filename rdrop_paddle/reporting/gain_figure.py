"""R-Drop's gain against the KL of two passes that are trained without it, for tasks and settings of all kinds."""

from typing import Dict, List, NamedTuple

from matplotlib.figure import Figure

from .comparisons import interval, outcomes_of
from .curves import curve, read_log
from .plots import COLOURS, MOST_POINTS, seeds_in_words, styled


class Gain(NamedTuple):
    """What R-Drop gains in a comparison, and how far two passes differ where nothing holds them together."""

    title: str
    percent: List[float]  # of the baseline's score, a seed each; above 0 where R-Drop is better
    logs: Dict[str, dict]  # of the runs with two passes and without the KL, see curves.read_log


def gains_of(experiments):
    """The Gain of each comparison that names runs of two passes without the KL, of which at least one has finished."""
    outcomes, found = outcomes_of(experiments), []
    better = 1 if experiments.measure.higher_is_better else -1
    for row in experiments.table.comparisons:
        before, after = outcomes[row.baseline].scores, outcomes[row.rdrop].scores
        percent = [better * 100 * (after[seed] / before[seed] - 1) for seed in sorted(before.keys() & after.keys())]
        done = [job for job in experiments.jobs if job.name == row.doubled and job.seed in outcomes[row.doubled].scores]
        if percent and done:
            found.append(Gain(row.title, percent, {job.run: read_log(experiments.folder(job)) for job in done}))
    return found


@styled
def draw(gains):
    """The KL of two passes that nothing holds together over the training of each task, and R-Drop's gain against it.

    `gains`: of several tables, see `gains_of`. A gain is in % of the baseline's score, with its 95 % interval.
    """
    figure = Figure(figsize=(8.5, 3.7 + 0.22 * len(gains)), layout="constrained")
    over_time, against = figure.subplots(1, 2)
    for gain, colour in zip(gains, COLOURS * len(gains)):
        kl = curve(gain.logs, "train/kl", MOST_POINTS)
        end = kl.mean[-max(len(kl.mean) // 10, 1) :].mean()
        mean, half = interval(gain.percent)
        over_time.plot(100 * kl.steps / kl.steps[-1], kl.mean, color=colour)
        label = f"{gain.title} ({seeds_in_words(gain.percent)})"
        against.errorbar(end, mean, half, fmt="o", color=colour, capsize=3, label=label)
    over_time.set_yscale("log")
    against.set_xscale("log")
    for axis in (over_time.yaxis, against.xaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(lambda number, _: "")
    over_time.set_xlabel("share of the updates, %")
    over_time.set_ylabel("KL of two passes without it in the loss, nats")
    against.axhline(0, color="#666666", linewidth=0.8)
    against.set_xlabel("that KL in the last tenth, nats")
    against.set_ylabel("R-Drop's gain, % of the baseline's score")
    figure.legend(loc="outside lower left", ncols=1)
    return figure
