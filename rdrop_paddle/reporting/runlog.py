"""The run folder output/<name>/: config.yaml, environment.json, train.log, metrics.jsonl, eval.txt, the VisualDL log vdl/ and
what belongs to the weights, such as classes.json.

Only rank 0 writes; on the other ranks every method does nothing.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from .. import ranks
from ..console import Patience
from ..durability import files
from ..errors import UserError
from .metrics import OUTCOME, read_metrics

CODE = ("rdrop_paddle", "tools", "configs")  # what a run's result depends on; results and pages may change beside it
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "pillow", "visualdl", "omegaconf", "safetensors")
PACKAGES += ("tokenizers", "sacremoses", "sacrebleu", "rouge-score", "scipy")


class RunLog:
    """Use as a context manager. `kept_updates` > 0 continues a run: what was logged up to there stays.

    Raises:
        UserError: the run folder cannot be written.
    """

    def __init__(self, config, *, rank=0, ranks=1, device="cpu", kept_updates=0):
        self.config = config
        self.folder = run_folder(config)
        self._writes = rank == 0
        if not self._writes:
            return
        from visualdl import LogWriter  # takes a second to import, and the other ranks have no use for it

        # a checkpoint is of before the evaluation of its update, with which a continued run begins
        kept = {"training": kept_updates, "evaluation": kept_updates - 1}
        records = [r for r in read_metrics(self.folder) if r["step"] <= kept["evaluation" if "split" in r else "training"]]
        records = [r for r in records if not r.get("final")]
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(config.to_yaml())
            (self.folder / "environment.json").write_text(json.dumps(environment(ranks, device), indent=2) + "\n")
            _write_metrics(self.folder, records)
            shutil.rmtree(self.folder / "vdl", ignore_errors=True)  # VisualDL shows one file of a folder: write it anew
            self._metrics = (self.folder / "metrics.jsonl").open("a")
            self._text = (self.folder / "train.log").open("a")
            self._vdl = LogWriter(logdir=str(self.folder / "vdl"))
        self._bar = tqdm(
            total=config.train.steps, initial=kept_updates, unit="update", disable=not sys.stderr.isatty(), dynamic_ncols=True
        )
        self._patience = Patience("update", config.train.steps)
        self._add_hyper_parameters()
        for record in records:
            self._show(record)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._writes:
            self._bar.close()
            for file in (self._vdl, self._metrics, self._text):
                with contextlib.suppress(OSError):  # every line is flushed: what a full disk took none of was an error then
                    file.close()

    def message(self, text):
        """A line for the console and train.log."""
        if self._writes:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
            self._patience.restart()
            with self._writing():
                self._text.write(text + "\n")
                self._text.flush()

    def progress(self, update):
        if self._writes:
            self._bar.update(update - self._bar.n)
            if self._bar.disable:
                self._patience.done(update)

    def training(self, update, **values):
        """The figures of one update, global-batch means: loss and its two terms, lr, grad_norm, throughput, costs in s, memory
        in GB."""
        if not self._writes:
            return
        self._record(dict(step=update, **values))
        eta, unit = values["batch_cost"] * (self.config.train.steps - update), self.config.unit
        first, second = self.config.terms
        self.message(
            f"update {update}/{self.config.train.steps}  loss {values['loss']:.4f}  {first} {values[first]:.4f}  "
            f"{second} {values[second]:.5f}  lr {values['lr']:.6f}  grad_norm {values['grad_norm']:.3f}  "
            f"reader_cost {values['reader_cost']:.3f} s  batch_cost {values['batch_cost']:.3f} s  "
            f"{values[f'{unit}_per_second']:.1f} {unit}/s  peak_memory {values['peak_memory']:.2f} GB  "
            f"eta {tqdm.format_interval(eta)}"
        )

    def evaluation(self, update, split, score, final=False):
        """A score; `final` marks the one evaluation of the best weights at the end of training."""
        if not self._writes:
            return
        self._record(dict(step=update, split=split, **score, **({"final": True} if final else {})))
        values = "  ".join(f"{name} {value:.6g}" for name, value in score.items())
        self.message(f"{'best weights' if final else f'update {update}'}  {split}  {values}")

    def sync(self):
        """Have metrics.jsonl on the disk: a checkpoint must not survive a power cut that its figures did not."""
        if self._writes:
            with self._writing():
                os.fsync(self._metrics.fileno())

    def outcome(self, words):
        """What the run came to, in one line: eval.txt."""
        if self._writes:
            with self._writing():
                files.replace_file(self.folder / OUTCOME, f"{words}\n".encode())

    def examples(self, found, update=0):
        """{tag: picture uint8 [H, W, 3] or text} for VisualDL."""
        for tag, shown in found.items() if self._writes else ():
            add = self._vdl.add_text if isinstance(shown, str) else self._vdl.add_image
            add(tag, shown, step=update)

    def belongings(self, found):
        """{name: JSON value} as files NAME.json: what belongs to the weights beside their tensors."""
        for name, value in found.items() if self._writes else ():
            with self._writing():
                files.replace_file(self.folder / f"{name}.json", files.json_bytes(value))

    def _record(self, record):
        """One line of metrics.jsonl, and the same numbers in VisualDL."""
        record = {name: None if _not_finite(value) else value for name, value in record.items()}  # JSON knows no NaN
        with self._writing():
            self._metrics.write(json.dumps(record, allow_nan=False) + "\n")
            self._metrics.flush()
            self._show(record)

    def _writing(self):
        return files.writing(f"the run folder {self.folder}", "make room, or choose another output=...")

    def _show(self, record):
        section = record.get("split", "train")
        for name, value in record.items():
            if isinstance(value, float):  # a curve of a count, such as that of the samples, says nothing
                self._vdl.add_scalar(f"{section}/{name}", value, step=record["step"])

    def _add_hyper_parameters(self):
        """A row of VisualDL's table: first what runs are most often told apart by, and what there is during training too."""
        chosen = {**self.config.hyper_parameters(), **asdict(self.config.rdrop)}
        # VisualDL takes neither bool nor None
        chosen = {name: int(value) if isinstance(value, bool) else value for name, value in chosen.items() if value is not None}
        shown = [f"{self.config.eval.split}/{self.config.measure.name}"]
        shown += [f"val/{self.config.selection.name}"] if self.config.has_held_out() else []
        self._vdl.add_hparams(chosen, [*dict.fromkeys(shown), "train/loss"])


def run_folder(config):
    return Path(config.output).expanduser() / config.name


def alone(config):
    """A context in which no other process trains in the run folder; rank 0 sees to it for all."""
    if ranks.rank() > 0:
        return contextlib.nullcontext()
    folder = run_folder(config)
    taken = f"another process is training in {folder}: wait for it or end it first, or choose another name=..."
    return files.locked(folder.with_name(f".{folder.name}.lock"), taken)


def check_run_folder(config, resume):
    """Refuse to mix two runs; rank 0 looks for all.

    Raises:
        UserError: the run folder holds something and this is not a resumption, or what it holds cannot be resumed.
    """
    folder = run_folder(config)
    if ranks.rank() > 0:
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another name=... or output=...")
    if not resume and folder.exists() and any(folder.iterdir()):
        raise UserError(f"run folder {folder} is not empty: continue it with --resume, or choose another name=...")
    if resume and (folder / OUTCOME).exists() and not any((folder / "checkpoints").glob("update-*")):
        raise UserError(f"{folder} has a finished run without its checkpoints, which cannot go on: choose another name=...")
    if resume and config.train.amp == "O2":
        raise UserError("--resume cannot continue a run with train.amp O2: use O1 for runs that may be interrupted")


def check_shared_folder(config):
    """Refuse ranks without a common disk: all of them read the checkpoints and best weights that rank 0 writes.

    Raises:
        UserError: `output` is not the same folder on every rank, or cannot be written; on every rank.
    """
    if ranks.count() == 1:
        return
    output, reason = Path(config.output).expanduser().absolute(), ""
    token = ranks.from_first(secrets.randbelow(2**31))
    probe = output / f".seen-by-all-{token}"
    if ranks.rank() == 0:
        try:
            output.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError as error:
            reason = f", because rank 0 cannot write there ({error.strerror})"
    ranks.wait_for_all()
    seen = ranks.total(int(probe.exists()))
    if ranks.rank() == 0:
        probe.unlink(missing_ok=True)
    if seen < ranks.count():
        raise UserError(
            f"{output} holds the same files on {seen} of {ranks.count()} ranks only{reason}: "
            "choose an output=... on a disk that all machines share"
        )


def environment(ranks, device):
    """What a reader of the results needs to know of the machine and the code."""
    installed = {}
    for name in PACKAGES:  # all that are installed would take longer to read than a small model to train
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": installed,
        "git_commit": _git_commit(),
        "ranks": ranks,
        "device": device,
    }


def _git_commit():
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parents[2])]
    try:
        # installed, the package may lie inside somebody else's checkout
        subprocess.run([*git, "ls-files", "--error-unmatch", str(here)], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *CODE]).returncode
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout
    return commit + ("-dirty" if changed else "")


def _write_metrics(folder, records):
    files.replace_file(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())


def _not_finite(value):
    return isinstance(value, float) and not math.isfinite(value)
