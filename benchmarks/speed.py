"""Speed and memory of training or evaluation, alone or side by side with torch or with other settings.

A measurement is a fresh set of processes (speed_paddle.py under Paddle's launcher, or torch_TASK.py) that warms up and then
times updates, or an evaluation of eval.split from its beginning to its end. Two sides take turns, A B A B ..., and are compared
pair by pair, because the speed of a machine drifts.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Optional

from rdrop_paddle import command_line, load_config
from rdrop_paddle.console import say
from rdrop_paddle.durability import files
from rdrop_paddle.errors import UserError

HERE = Path(__file__).resolve().parent
TORCH_REPEATS = 6  # of an evaluation in torch: how often it runs through its batches, which a search does once


@dataclass(frozen=True)
class Side:
    """What is measured: a config with overrides on so many ranks, in Paddle or in torch."""

    config: str
    overrides: tuple
    changes: tuple = ()  # overrides of this side alone
    evaluation: bool = False
    weights: Optional[str] = None  # trained ones that are evaluated; None = random ones
    ranks: int = 1
    threads: Optional[int] = None  # of a rank; None = its share of the cores
    framework: str = "paddle"
    torch_micro_batch: Optional[int] = None  # samples per forward in torch; None = the global batch at once
    warmup: int = 1  # updates that are not counted; an evaluation in Paddle is counted from its start
    repeats: int = 6  # that are

    @classmethod
    def from_json(cls, values):
        """The Side that `as_text` wrote."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**{name: value for name, value in values.items() if name != "label"})

    def thread_count(self):
        return self.threads or command_line.threads(self.ranks)

    def label(self):
        changes = "".join(f", {change}" for change in self.changes)
        return f"{self.framework}, {self.ranks} x {self.thread_count()} thread(s){changes}"

    def against(self, words):
        """The other side: "torch", one process with all threads, and overrides; ranks=N and threads=N change the processes."""
        layout = [word for word in words if word.startswith(("ranks=", "threads="))]
        other = self
        if "torch" in words:
            times = TORCH_REPEATS if self.weights is None else 1
            repeats = dict(warmup=1, repeats=times * self.repeats) if self.evaluation else {}
            other = replace(self, framework="torch", ranks=1, threads=None, **repeats)
        other = replace(other, changes=tuple(word for word in words if word not in (*layout, "torch")))
        for key, _, number in (word.partition("=") for word in layout):
            try:
                other = replace(other, **{key: command_line.positive(number)})
            except argparse.ArgumentTypeError as error:
                raise UserError(f"--against {key}: {error}") from None
        return other


@dataclass(frozen=True)
class Measurement:
    """One run of a side; sums over its ranks, medians over its repeats."""

    throughput: float  # images/s, tokens/s, ..., as the task counts
    updates_per_second: float  # of an evaluation: passes over the data
    reader_share: float  # of the time; the torch side is given its data for nothing
    peak_memory: float  # GB resident, with pages that ranks share counted once
    gflop: float  # of the matrix products per update as the method prescribes them
    ceiling: float  # GFLOP/s of a large square product on all ranks at once

    @property
    def utilisation(self):
        """Share of the ceiling that the prescribed matrix products reach."""
        return self.gflop * self.updates_per_second / self.ceiling


def measure(side):
    """Run `side` once in processes of its own; returns a Measurement.

    Raises:
        UserError: the config is wrong, or the processes failed; the message ends with what they said last.
    """
    say(f"measuring {side.label()}")
    overrides = [*side.overrides, *side.changes]
    config = load_config(side.config, overrides)
    with tempfile.TemporaryDirectory() as folder:
        specification = Path(folder, "specification.json")
        specification.write_text(json.dumps(asdict(side) | dict(overrides=overrides)))
        launchers = dict(paddle="paddle.distributed.launch", torch="torch.distributed.run")
        launch = ["-m", launchers[side.framework], "--nproc_per_node", str(side.ranks), "--log_dir", f"{folder}/log"]
        script = "speed_paddle.py" if side.framework == "paddle" else f"torch_{config.task}.py"
        worker = [str(HERE / script), str(specification), folder]
        command = [sys.executable, *(launch if side.ranks > 1 else []), *worker]
        environment = os.environ | {"OMP_NUM_THREADS": str(side.thread_count())}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank-*.json"))]
        if done.returncode or len(found) != side.ranks:
            log = Path(folder, "log", "workerlog.0")
            said = (log.read_text() if log.exists() else done.stdout).strip().splitlines() or ["nothing was printed"]
            raise UserError(f"{side.label()} failed: {said[-1]}")
    work = importlib.import_module(f"benchmarks.{config.task}").flop_of_position(config)
    return _over_ranks(found, work * (1 if side.evaluation else 3 * config.rdrop.passes))


def _over_ranks(found, flop):
    """`flop`: of one position, in all its forwards and backwards."""
    first = found[0]
    throughput = statistics.median(count / seconds for count, seconds in zip(first["positions"], first["seconds"]))
    return Measurement(
        throughput=throughput,
        updates_per_second=1 / statistics.median(first["seconds"]),
        reader_share=first["reading"] / sum(first["seconds"]),
        peak_memory=sum(rank["peak_memory"] for rank in found),
        gflop=flop * statistics.median(first["positions"]) / 1e9,
        ceiling=sum(rank["ceiling"] for rank in found),
    )


def compare(sides, rounds, path=None):
    """Measure the sides in turns, so many rounds of it, and print the table; with `path` all goes into that JSON file.

    Raises:
        UserError: see `measure`; or the file cannot be written.
    """
    unit = load_config(sides[0].config, sides[0].overrides).unit
    measured = take_turns(sides, rounds)
    print(table(sides, measured, unit))
    if len(sides) == 2:
        print(f"\n{unit}/s, first over second: {ratio_text(ratios(measured))}", flush=True)
    if path:
        with files.writing(path):
            Path(path).write_text(as_text(sides, measured, unit))


def take_turns(sides, rounds):
    """Measure the sides one after the other, so many rounds of it: [[Measurement of each side], ...]."""
    return [[measure(side) for side in sides] for _ in range(rounds)]


def ratios(rounds):
    """Throughput of the first side over the second's, one for each pair."""
    return [first.throughput / second.throughput for first, second in rounds]


def table(sides, rounds, unit):
    """Medians over the rounds as a Markdown table, the range of throughput, in `unit` a second, in brackets."""
    lines = [
        f"| | {unit}/s | updates/s | reader | peak memory | GFLOP per update | share of the ceiling |",
        "|---|---|---|---|---|---|---|",
    ]
    for side, runs in zip(sides, zip(*rounds)):
        speeds = [run.throughput for run in runs]
        m = Measurement(*(statistics.median(getattr(run, f.name) for run in runs) for f in fields(Measurement)))
        cells = [
            side.label(),
            f"{m.throughput:.2f} ({min(speeds):.2f} to {max(speeds):.2f})",
            f"{m.updates_per_second:.3f}",
            f"{m.reader_share:.1%}" if side.framework == "paddle" else "-",
            f"{m.peak_memory:.2f} GB",
            f"{m.gflop:.0f}",
            f"{m.utilisation:.0%} of {m.ceiling:.0f} GFLOP/s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio_text(values):
    """The median of the pairs' ratios and their range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}, {len(values)} rounds)"


def as_text(sides, rounds, unit):
    """Everything that was measured and on what, as the text of a JSON file."""
    found = {"machine": machine(), "sides": [asdict(side) | {"label": side.label()} for side in sides]}
    found["rounds"] = [[_as_json(measurement, unit) for measurement in each] for each in rounds]
    if len(sides) == 2:
        values = ratios(rounds)
        found["ratio"] = {"median": statistics.median(values), "min": min(values), "max": max(values), "pairs": values}
    return json.dumps(found, indent=1) + "\n"


def machine():
    """{"processor": its name and family, "cores": those that this process may use, "packages": {name: version}}."""
    processor = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", command_line.processor(), re.MULTILINE))
    names = [f"{name} {processor[name]}" for name in ("cpu family", "model") if name in processor]
    versions = {}
    for name in ("paddlepaddle", "torch", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    kind = ", ".join([processor.get("model name", platform.processor()), *names])
    return {"processor": kind, "cores": command_line.threads(1), "packages": versions}


def _as_json(measurement, unit):
    figures = asdict(measurement)
    return {f"{unit}_per_second": figures.pop("throughput"), **figures}
