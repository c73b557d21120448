"""Published runs: a folder for each beside the table of experiments, and runs.csv with a row for each."""

import csv
import io
import json
import shlex
import shutil
import statistics
from dataclasses import asdict

from ..config import flatten
from ..durability import files
from ..errors import UserError
from .metrics import OUTCOME, read_metrics

FAILURE = "failed.txt"  # a published run has this or OUTCOME
ADVICE = "make room or the folder writable, and start the same command again"


def publish(run_folder, folder, failure=None):
    """Copy what shows a run's outcome into `folder`, which is there once it is whole and on the disk.

    `failure` is a line, None for a score. The VisualDL log goes along with runs that read the test set; trials on the
    held-out part are many.
    """
    unfinished = folder.with_name(folder.name + files.UNFINISHED)
    with files.writing(folder, ADVICE):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name in ("config.yaml", "environment.json", "metrics.jsonl", *([] if failure else [OUTCOME])):
            if (run_folder / name).exists():
                shutil.copyfile(run_folder / name, unfinished / name)
        if failure:
            (unfinished / FAILURE).write_text(failure + "\n")
        elif _final(run_folder)["split"] == "test":
            shutil.copytree(run_folder / "vdl", unfinished / "vdl")
        for path in (*unfinished.rglob("*"), unfinished):
            files.sync(path)
        unfinished.rename(folder)
        files.sync(folder.parent)


def check(experiments):
    """Refuse a table by which a published result would be taken for that of other settings, or left out.

    Raises:
        UserError: a published run is not in the table, or its config is not what the table asks.
    """
    jobs = {experiments.folder(job): job for job in experiments.jobs}
    for path in sorted(experiments.path.parent.glob("*/config.yaml")):
        folder = path.parent
        if folder not in jobs and folder.suffix != files.UNFINISHED:
            raise UserError(f"{folder} is published but not in {experiments.path}: put it back, since nothing is left out")
    for folder, job in jobs.items():
        if not folder.exists():
            continue
        before, now = (flatten(asdict(config)) for config in (experiments.load_config(folder / "config.yaml"), job.config))
        may_change = job.config.immaterial()
        for key in now:
            if before[key] != now[key] and key not in may_change:
                raise UserError(
                    f"{job.run}: {key} is {before[key]} in {folder}, and {now[key]} in {experiments.path}: change it back, "
                    "or give the run another name"
                )


def write_csv(experiments):
    """Rebuild runs.csv from what is published."""
    path = experiments.path.with_name("runs.csv")
    with files.writing(path, ADVICE):
        files.replace_file(path, csv_text(experiments).encode())


def csv_text(experiments):
    """A row for each published run, in the table's order. Times are of the updates alone, as metrics.jsonl has them."""
    configs = [flatten(asdict(job.config)) for job in experiments.jobs]
    differ = _different_keys([job.config for job in experiments.jobs], configs)
    keys = [key for key in (configs[0] if configs else ()) if key in experiments.jobs[0].config.columns or key in differ]
    short = [key.rpartition(".")[2] for key in keys]
    # name is the run's
    columns = {key: last if short.count(last) == 1 and last != "name" else key for key, last in zip(keys, short)}
    rows = []
    for job, config in zip(experiments.jobs, configs):
        if experiments.folder(job).exists():
            settings = {columns[key]: _cell(config[key]) for key in keys}
            rows.append(_row(job, experiments.folder(job), settings))
    text = io.StringIO()
    columns = max(rows, key=len, default=["run"])  # a run that failed has no score
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(job, folder, settings):
    failed = (folder / FAILURE).exists()
    updates = [record for record in read_metrics(folder) if "split" not in record]
    final = {} if failed else _final(folder)
    environment = folder / "environment.json"
    return dict(
        run=job.run,
        name=job.name,
        seed=job.seed,
        status="failed" if failed else "finished",
        split=job.config.eval.split,
        **{name: _score(value) for name, value in final.items() if name not in ("step", "split", "final")},
        updates=updates[-1]["step"] if updates else 0,
        **settings,
        hours=f"{_seconds(updates) / 3600:.4f}",
        milliseconds_per_update=f"{1000 * statistics.median(r['batch_cost'] for r in updates):.1f}" if updates else "",
        commit=json.loads(environment.read_text())["git_commit"] if environment.exists() else "",
        command=shlex.join(job.command),
    )


def _seconds(updates):
    """What the updates took, however often the run was continued: a record's cost is the mean since the one before."""
    steps = [0, *(record["step"] for record in updates)]
    return sum(record["batch_cost"] * (step - before) for record, before, step in zip(updates, steps, steps[1:]))


def _final(folder):
    """The evaluation that ends a run."""
    found = next((record for record in reversed(read_metrics(folder)) if record.get("final")), None)
    if found is None:
        raise UserError(f"{folder}/metrics.jsonl has no final evaluation: get it back from where it was published")
    return found


def _different_keys(configs, flat):
    """The keys in which runs differ, of those that matter to the result and have no column of their own."""
    free = set.intersection(*(config.immaterial() for config in configs)) if configs else set()
    candidates = (flat[0].keys() if flat else set()) - free - {"train.seed", "eval.split"}
    return {key for key in candidates if any(config[key] != flat[0][key] for config in flat)}


def _score(value):
    return f"{value:.4f}" if isinstance(value, float) else _cell(value)


def _cell(value):
    if isinstance(value, bool):
        return str(value).lower()  # as in YAML
    return "" if value is None else value
