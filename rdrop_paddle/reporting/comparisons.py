"""The README's tables of results, in Markdown: scores of runs over their seeds, and differences paired by seed."""

import csv
import statistics
from typing import Dict, List, NamedTuple

from ..errors import UserError

NOT_RUN = "not run"


class Outcome(NamedTuple):
    """What runs.csv has of a run of the table."""

    seeds: int  # that the table asks for
    failed: int  # of them
    scores: Dict[int, float]  # as shown, by the seed, of those that finished
    hours: float  # of all of them
    milliseconds: List[float]  # an update, of those that finished


def summary(experiments):
    """The tables of comparisons and of ablations; empty when the experiments name none."""
    table, outcomes = experiments.table, outcomes_of(experiments)
    tables = []
    if table.comparisons:
        tables.append(["| setting | baseline | R-Drop | difference (95 % interval) | hours |", "|---|---|---|---|---|"])
        tables[-1] += [_comparison_row(row.title, outcomes[row.baseline], outcomes[row.rdrop]) for row in table.comparisons]
    if table.ablations:
        name = experiments.measure.name
        tables.append([f"| setting | {name} | difference (95 % interval) | against | ms an update |", "|---|---|---|---|---|"])
        tables[-1] += [_ablation_row(row, outcomes) for row in table.ablations]
    return "\n\n".join("\n".join(lines) for lines in tables)


def mean_row(tables):
    """The row that summary() would have of the mean over the first comparison of each of several tables, by seed.

    Only seeds that all of them have count.
    """
    arms = [[], []]
    for experiments in tables:
        outcomes, first = outcomes_of(experiments), experiments.table.comparisons[0]
        for arm, name in zip(arms, (first.baseline, first.rdrop)):
            arm.append(outcomes[name])
    return _comparison_row(f"mean of these {len(tables)}", *map(_mean, arms))


def outcomes_of(experiments):
    """{name of a run of the table: Outcome}, by runs.csv.

    Raises:
        UserError: that is damaged.
    """
    path = experiments.path.with_name("runs.csv")
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
        return {
            run.name: _outcome(run, [row for row in rows if row["name"] == run.name], experiments.measure)
            for run in experiments.table.runs
        }
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:  # no such column, no number, a line that is cut
        raise UserError(f"{path} is no table of runs as this tool writes it ({error}): the next run makes it anew") from None


def interval(differences):
    """(mean, half the width of its 95 % interval by Student's t), the latter None for a single difference."""
    if len(differences) == 1:
        return differences[0], None
    import scipy.stats  # takes a second to import, which only the tables have a use for

    error = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(scipy.stats.t.ppf(0.975, len(differences) - 1)) * error


def _outcome(run, rows, measure):
    finished = [row for row in rows if row["status"] == "finished"]
    return Outcome(
        seeds=len(run.seeds),
        failed=len(rows) - len(finished),
        scores={int(row["seed"]): measure.shown(row) for row in finished},
        hours=sum(float(row["hours"]) for row in rows),
        milliseconds=[float(row["milliseconds_per_update"]) for row in finished],
    )


def _mean(outcomes):
    """An Outcome whose score is, for each seed, the mean of theirs."""
    seeds = set.intersection(*(set(outcome.scores) for outcome in outcomes))
    return Outcome(
        seeds=max(outcome.seeds for outcome in outcomes),
        failed=sum(outcome.failed for outcome in outcomes),
        scores={seed: statistics.mean(outcome.scores[seed] for outcome in outcomes) for seed in sorted(seeds)},
        hours=sum(outcome.hours for outcome in outcomes),
        milliseconds=[],
    )


def _comparison_row(title, baseline, rdrop):
    hours = baseline.hours + rdrop.hours
    cells = [title, _score(baseline), _score(rdrop), _difference(baseline, rdrop), f"{hours:.1f}" if hours else "-"]
    return f"| {' | '.join(cells)} |"


def _ablation_row(row, outcomes):
    outcome = outcomes[row.run]
    difference = _difference(outcomes[row.reference], outcome) if row.reference else "-"
    # of the fastest run: what else a machine did, and which one it was, only adds
    cost = f"{min(outcome.milliseconds):.0f}" if outcome.milliseconds else "-"
    return f"| {row.title} | {_score(outcome)} | {difference} | {row.reference or '-'} | {cost} |"


def _score(outcome):
    values, notes = list(outcome.scores.values()), []
    if len(values) < outcome.seeds and (values or outcome.failed):
        notes.append(f"{len(values)} of {outcome.seeds} seeds")
    if outcome.failed:
        notes.append(f"{outcome.failed} failed")
    text = f"{statistics.mean(values):.2f}" if values else NOT_RUN
    if len(values) > 1:
        text += f" +- {statistics.stdev(values):.2f}"
    return text + (f" ({', '.join(notes)})" if notes else "")


def _difference(before, after):
    seeds = sorted(before.scores.keys() & after.scores.keys())
    if not seeds:
        return NOT_RUN
    mean, half = interval([after.scores[seed] - before.scores[seed] for seed in seeds])
    if half is None:
        return f"{mean:+.2f} (one seed)"
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f}; {len(seeds)} seeds)"
