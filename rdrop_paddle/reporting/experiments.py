"""A table of experiments: one YAML file names training runs, of which the missing ones are started and published beside it.

Nothing here imports Paddle: this process only starts others and waits for them.
"""

import fnmatch
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config import Config, check_ranks, flatten
from ..config_layers import in_one_line, overlay, read_yaml
from ..durability import files, supervision
from ..errors import UserError
from . import published

OUTPUT = Path("output/experiments")  # of the run folders; relative, because published configs hold it
GIVEN = ("name", "output", "train.seed")  # keys that follow from a row's name and seeds
ERROR = re.compile(r"(error: |[\w.]*(Error|Exception): )")  # a UserError, a heartbeat's line, or the end of a traceback


@dataclass
class Run:
    """One training run for each of the seeds; later overrides win."""

    name: str
    settings: List[str] = field(default_factory=list)
    overrides: List[str] = field(default_factory=list)
    seeds: List[int] = field(default_factory=lambda: [0])


@dataclass
class Comparison:
    """A row of the README's results: names of two runs, and of one of two passes without KL, which logs it; empty = none."""

    title: str
    baseline: str
    rdrop: str
    doubled: str = ""


@dataclass
class Ablation:
    """A row of the README's ablations: names of a run and of the one that it is compared with; empty = none."""

    title: str
    run: str
    reference: str = ""


@dataclass
class Table:
    """The YAML file. `config` is that of every run, relative to the working directory; `settings` are named overrides."""

    config: str
    ranks: int
    runs: List[Run]
    settings: Dict[str, List[str]] = field(default_factory=dict)
    comparisons: List[Comparison] = field(default_factory=list)
    ablations: List[Ablation] = field(default_factory=list)


class Job(NamedTuple):
    """A Run with one of its seeds."""

    name: str  # of the Run
    seed: int
    overrides: List[str]
    config: Config
    command: List[str]  # what a person would paste

    @property
    def run(self):
        """The name of its folders."""
        return self.config.name


class Experiments(NamedTuple):
    """A table that was checked; its runs are published in the folder that it lies in."""

    path: Path
    table: Table
    jobs: List[Job]  # in the order in which they are started
    load_config: Callable  # that of tasks.py

    @property
    def measure(self):
        """What the runs are compared by."""
        return self.jobs[0].config.measure

    def folder(self, job):
        """Where the job is published."""
        return self.path.parent / job.run


def load_table(path, load_config):
    """The Experiments of a YAML file, with the config of every run, which `load_config` of tasks.py reads.

    Raises:
        UserError: an unreadable table, an unknown key or name, a name given twice, or a run whose config is none.
    """
    path = Path(path)
    try:
        table = OmegaConf.to_object(overlay(OmegaConf.structured(Table), read_yaml(path)))
    except UserError:
        raise
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise UserError(in_one_line(path, error)) from None
    _check_runs(path, table)
    jobs = [_job(path, table, run, seed, load_config) for run in table.runs for seed in run.seeds]
    if len({(job.config.task, job.config.measure) for job in jobs}) > 1:
        raise UserError(f"{path}: its runs are of different tasks, whose scores are none to compare: make a table of each")
    _check_rows(path, table, {job.name: job.config.eval.split for job in jobs})
    return Experiments(path, table, jobs, load_config)


def run_missing(experiments, script, only="*"):
    """Train what `only` selects of the runs and is not published, with tools/train.py as `script`, and publish it.

    A run that fails is published as such and the next one started; the exit status is 1 then, as when a signal ended this.

    Raises:
        UserError: `only` selects nothing, a published run is not what the table asks, or another process is at work here.
    """
    jobs = [job for job in experiments.jobs if fnmatch.fnmatchcase(job.run, only)]
    if experiments.jobs and not jobs:
        raise UserError(f"--only {only} selects no run; there is for example {experiments.jobs[0].run}")
    failures = []
    taken = f"experiments are running in {OUTPUT} already: wait for them, or end them first"
    # training is handed the lock too: it would go on if this process were killed
    with files.locked(OUTPUT / "lock", taken) as lock, supervision.Child() as child:
        published.check(experiments)
        published.write_csv(experiments)
        missing = [job for job in jobs if not experiments.folder(job).exists()]
        _say_what_is_there(experiments, [job for job in jobs if job not in missing], len(jobs))
        for number, job in enumerate(jobs, start=1):
            if job in missing and not child.stopping.is_set():
                print(f"[{number}/{len(jobs)}] {job.run}", flush=True)
                status = _train(experiments.table, job, script, child, lock)
                if status == 0 or not child.stopping.is_set():
                    failures += _settle(experiments, job, status)
    if child.stopping.is_set():
        print("stopped: the same command goes on from the last checkpoint")
    for failure in failures:
        print(failure)
    return 1 if failures or child.stopping.is_set() else 0


def _job(path, table, run, seed, load_config):
    where, overrides = f"{path}, run {run.name}", []
    for name in run.settings:
        if name not in table.settings:
            raise UserError(f"{where}: there are no settings {name}, but {', '.join(table.settings) or 'none at all'}")
        overrides += table.settings[name]
    overrides += run.overrides
    for override in overrides:
        if override.partition("=")[0] in GIVEN:
            raise UserError(f"{where}: leave out {override}, which follows from the run's name and seeds")
    overrides += [f"name={run.name}_seed{seed}", f"train.seed={seed}"]
    overrides = [*{override.partition("=")[0]: override for override in overrides}.values()]  # the last one of each key
    command = ["python", *supervision.command("tools/train.py", table.config, overrides, table.ranks)[1:]]
    overrides.append(f"output={OUTPUT}")
    try:
        config = load_config(table.config, overrides)
        check_ranks(config.train, table.ranks)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for key, value in flatten(asdict(config)).items():
        if isinstance(value, str) and Path(value).expanduser().is_absolute():
            raise UserError(f"{where}: {key} is {value}, a path of this machine, which would be published: give a relative one")
    return Job(run.name, seed, overrides, config, command)


def _check_runs(path, table):
    names = [run.name for run in table.runs]
    if table.ranks < 1:
        raise UserError(f"{path}: ranks is {table.ranks}: give an integer from 1 on")
    for run in table.runs:
        if names.count(run.name) > 1:
            raise UserError(f"{path}: two runs are called {run.name}: give one of them another name")
        if not run.seeds or len(set(run.seeds)) < len(run.seeds):
            raise UserError(f"{path}, run {run.name}: seeds are {run.seeds}: give one or several different ones")


def _check_rows(path, table, splits):
    """`splits`: what each run is evaluated on, by its name."""
    pairs = [(row.title, row.baseline, row.rdrop, *filter(None, [row.doubled])) for row in table.comparisons]
    pairs += [(row.title, row.run, row.reference or row.run) for row in table.ablations]
    for title, *compared in pairs:
        for name in compared:
            if name not in splits:
                raise UserError(f"{path}, {title}: there is no run {name}")
        if len({splits[name] for name in compared}) > 1:
            raise UserError(f"{path}, {title}: {' and '.join(compared)} are evaluated on different splits")


def _train(table, job, script, child, lock):
    """The exit status of a run, begun or continued."""
    logs = _logs(job)
    shutil.rmtree(logs, ignore_errors=True)  # the launcher appends, and an error of before would be read as that of now
    logs.mkdir(parents=True)
    begun = OUTPUT / job.run
    if (begun / published.OUTCOME).exists() and not (begun / "checkpoints").exists():  # published once, and wanted anew
        shutil.rmtree(begun)
    resume = ["--resume"] if begun.exists() else []
    command = supervision.command(script, table.config, job.overrides, table.ranks, log_dir=logs)
    with (logs / "console.log").open("w") as console:
        return child.run([*command, *resume], stdout=console, stderr=subprocess.STDOUT, pass_fds=[lock.fileno()])


def _settle(experiments, job, status):
    """Publish a run that has ended and rebuild runs.csv; returns what there is to say at the end.

    An error of usage, data or disk is no result, nor is one before training began: then nothing is published.
    """
    folder, run_folder, failure = experiments.folder(job), OUTPUT / job.run, None
    if status:
        failure = _last_words(_logs(job))
        print(f"    failed with exit status {status}: {failure}", flush=True)
        if status == supervision.USER_ERROR or not (run_folder / "config.yaml").exists():
            return [
                f"{job.run} could not be run, so that nothing was recorded and the next start tries again; see {_logs(job)}"
            ]
    published.publish(run_folder, folder, failure)
    if not status:
        shutil.rmtree(run_folder / "checkpoints", ignore_errors=True)  # 100 MB, and there is nothing left to resume
    published.write_csv(experiments)
    if status:
        return [f"{job.run} failed: remove {folder} to have it continued, and {run_folder} as well to have it begun anew"]
    print(f"    {(folder / published.OUTCOME).read_text().strip()}", flush=True)
    return []


def _say_what_is_there(experiments, done, count):
    if done:
        print(f"{len(done)} of {count} runs are in {experiments.path.parent} already", flush=True)
    failed = [job.run for job in done if (experiments.folder(job) / published.FAILURE).exists()]
    if failed:
        print(f"failed earlier, and continued when the folder is removed: {', '.join(failed)}", flush=True)


def _logs(job):
    return OUTPUT / "launcher" / job.run


def _last_words(logs):
    """The last error in what a run said, of the lowest rank that told one, or else its last line; without machine paths."""
    last = "nothing was said"
    for path in [logs / "console.log", *sorted(logs.glob("workerlog.*"), reverse=True)]:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if ERROR.match(line)]
        if errors or (lines and not ERROR.match(last)):
            last = (errors or lines)[-1]
    return last.replace(str(Path.cwd()), ".").replace(str(Path.home()), "~")
