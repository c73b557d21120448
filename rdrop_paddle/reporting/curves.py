"""Curves over the updates, read from run folders or from any VisualDL log, with mean and range over runs.

A log is {tag: [(step, value), ...]} in the order of writing. The tags are VisualDL's, "train/loss" or "val/accuracy" here.
Logs of other projects may hold several values of one tag at one step, one of each rank: they count as the values of a run do.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from .metrics import read_metrics

VISUALDL = "vdlrecords.*.log"


@dataclass(frozen=True)
class Curve:
    """One tag over the steps that all runs have, with the range of all values at a step."""

    steps: np.ndarray  # float64 [S], rising, and so are the others
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    block: int  # how many steps that were logged one after the other each of these stands for, by their mean

    def scaled(self, factor):
        return replace(self, mean=factor * self.mean, low=factor * self.low, high=factor * self.high)


def read_log(path):
    """The scalars of a run folder (metrics.jsonl, otherwise its VisualDL log), or of VisualDL files: a folder of them, or one.

    Raises:
        UserError: there is no log, it is empty, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no {path}: give a run folder, or a VisualDL log")
    files = [path] if path.is_file() else sorted([*path.glob(VISUALDL), *path.glob(f"vdl/{VISUALDL}")])
    metrics = (path / "metrics.jsonl").exists()
    if not metrics and not files:
        raise UserError(f"{path} holds neither metrics.jsonl nor a VisualDL log ({VISUALDL}, or vdl/{VISUALDL})")
    log = _of_metrics(path) if metrics else _of_visualdl(files)
    if not log:
        raise UserError(f"the log in {path} holds no scalar")
    return log


def _of_metrics(folder):
    log = defaultdict(list)
    for record in read_metrics(folder):
        if not isinstance(record, dict) or "step" not in record:
            raise UserError(f"metrics.jsonl in {folder} is not of a run here: a line of it has no step")
        if record.get("final") and record.get("split") == "val":
            continue  # of the best weights, which are of an earlier update
        for name, value in record.items():
            if name in ("step", "split", "final") or value is None:
                continue
            if not all(isinstance(number, (int, float)) for number in (record["step"], value)):
                raise UserError(
                    f"metrics.jsonl in {folder} is damaged: {name} is {value!r} at step {record['step']!r}, no number"
                )
            log[f"{record.get('split', 'train')}/{name}"].append((record["step"], value))
    return dict(log)


def _of_visualdl(paths):
    from visualdl import LogReader  # takes a second to import, which metrics.jsonl can do without

    log = defaultdict(list)
    for path in paths:
        try:
            reader = LogReader(file_path=str(path))
        except Exception as error:  # visualdl and protobuf raise many kinds
            raise UserError(f"cannot read {path} as a VisualDL log: {str(error) or type(error).__name__}") from None
        for tag in reader.get_tags().get("scalar", []):
            log[tag] += [(scalar.id, scalar.value) for scalar in reader.get_data("scalar", tag)]
    return dict(log)


def repeated_steps(log):
    """{tag: (steps that hold several values, steps, the most values of a step)} of the tags that have such steps."""
    found = {}
    for tag, points in log.items():
        counts = np.unique([step for step, _ in points], return_counts=True)[1]
        if counts.max() > 1:
            found[tag] = (int((counts > 1).sum()), len(counts), int(counts.max()))
    return found


def curve(logs, tag, most=None):
    """The Curve of a tag over the logs of several runs, {path: log}.

    With more than `most` steps, blocks of consecutive ones are averaged, in each run by itself; not where their number of
    values differs.

    Raises:
        UserError: a log has no such tag, or the runs have no step in common.
    """
    runs = []
    for path, log in logs.items():
        if tag not in log:
            raise UserError(f"the log in {path} has no tag {tag}: choose with --tag of {', '.join(sorted(log))}")
        values = defaultdict(list)
        for step, value in log[tag]:
            values[step].append(value)
        runs.append(values)
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    if not steps:
        raise UserError(f"the runs {', '.join(map(str, logs))} have no step of {tag} in common: make each an arm of its own")
    pooled = [[value for run in runs for value in run[step]] for step in steps]
    block = -(-len(steps) // (most or len(steps)))
    if block > 1 and len({len(values) for values in pooled}) == 1:
        steps, pooled = (_block_means(np.asarray(values), block) for values in (steps, pooled))
    else:
        block = 1
    mean, low, high = (np.asarray([of(values) for values in pooled]) for of in (np.mean, np.min, np.max))
    return Curve(np.asarray(steps, "float64"), mean, low, high, block)


def _block_means(values, block):
    """Along the first axis; the last block may be shorter."""
    return np.stack([values[start : start + block].mean(axis=0) for start in range(0, len(values), block)])
