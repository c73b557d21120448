"""The configuration as typed dataclasses: what all tasks share; a task adds sections of its own in a subclass of Config.

config_layers.py merges defaults, files and overrides into one of them, and tasks.py knows the subclass of each task.
"""

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Dict, List, NamedTuple, Optional, Tuple

import yaml

from .errors import UserError

OTHER_MASKS = "the samples and the mathematics are the same, but dropout masks differ from here on"
ROUNDING = "the result is the same up to rounding"
# keys that may change when a run is resumed, and what the log then says; a change of any other would change the result
FREE = {
    "name": None,
    "output": None,
    "train.micro_batch_size": OTHER_MASKS,
    "train.recompute": ROUNDING,
    "train.sharding": ROUNDING,
    "train.skip_nonfinite": None,
    "train.log_every": None,
    "train.eval_every": "the best weights are selected from other updates from here on",
    "train.save_every": None,
    "train.collective_timeout": None,
    "eval.split": None,
    "eval.batch_size": None,
    "eval.target": None,
}


def data_root():
    """The folder of data and weights: RDROP_DATA, or ~/.cache/rdrop."""
    return Path(os.environ.get("RDROP_DATA") or "~/.cache/rdrop").expanduser()


def within(length=None, **bounds):
    """A field of a section: a number, or with `length` a list of so many, within bounds: low, above, high, below."""
    return field(metadata={"length": length, "bounds": bounds})


def one_of(*choices):
    """A field of a section: one of these values."""
    return field(metadata={"choices": choices})


class Measure(NamedTuple):
    """The leading score of a task: it selects the best weights as a rule, meets eval.target, and is what tables compare."""

    name: str
    higher_is_better: bool = True
    in_percent: bool = False  # a share from 0 to 1, which tables and figures give in %
    decimals: int = 4  # that a target is printed with
    quotient_of: Tuple[str, str] = ()  # the two integers beside the score that it is the exact quotient of, if there are such

    def is_better(self, value, other):
        if math.isnan(other):  # nothing would be better than that, ever
            return True
        return value > other if self.higher_is_better else value < other

    def reaches(self, value, target):
        return value == target or self.is_better(value, target)

    def shown(self, row):
        """The number as tables and figures give it, from a {column: text} of runs.csv, whose score is rounded."""
        scale = 100 if self.in_percent else 1
        if not self.quotient_of:
            return scale * float(row[self.name])
        numerator, denominator = (int(row[name]) for name in self.quotient_of)
        return scale * numerator / denominator

    def label(self):
        return f"{self.name}, %" if self.in_percent else self.name


@dataclass
class TrainConfig:
    steps: int = within(low=1)
    batch_size: Optional[int] = within(low=1)
    micro_batch_size: Optional[int] = within(low=1)
    accumulation: Optional[int] = within(low=1)
    lr: float = within(low=0)
    schedule: str = one_of("cosine", "inverse_sqrt", "linear", "polynomial")
    power: float = within(above=0)
    warmup_steps: int = within(low=0)
    warmup_init_lr: float = within(low=0)
    clip_norm: Optional[float] = within(above=0)
    optimizer: str = one_of("momentum", "adamw")
    momentum: float = within(low=0, high=1)
    betas: List[float] = within(low=0, below=1, length=2)  # noqa: RUF009
    epsilon: float = within(low=0)
    weight_decay: float = within(low=0)
    label_smoothing: float = within(low=0, high=1)
    ema_decay: Optional[float] = within(low=0, high=1)
    skip_nonfinite: int = within(low=0)
    recompute: bool
    amp: str = one_of("off", "O1", "O2")
    amp_dtype: str = one_of("bfloat16", "float16")
    sharding: int = one_of(0, 1, 2)
    seed: int = within(low=0, high=2**32 - 1)
    log_every: int = within(low=1)
    eval_every: int = within(low=1)
    save_every: int = within(low=1)
    collective_timeout: int = within(low=5)


@dataclass
class RDropConfig:
    passes: int = one_of(1, 2)
    alpha: float = within(low=0)
    reduction: str = one_of("batchmean", "mean", "sum")
    shared_blocks: int = within(low=0)
    stop_target_gradient: bool

    def check_shared(self, count, what="layers"):
        """Raises a UserError where a model has `count` layers and sharing leaves the passes none to differ in."""
        if self.shared_blocks >= count:
            raise UserError(
                f"rdrop.shared_blocks {self.shared_blocks} leaves none of the model's {count} {what} to differ in: "
                f"give at most {count - 1}"
            )


@dataclass
class EvalConfig:
    split: str = one_of("test", "val")
    batch_size: int = within(low=1)
    target: Optional[float] = within(low=0)


@dataclass
class Config:
    """A subclass gives `model` and `data` their types, may add sections, and says what its task is counted in and led by."""

    task: str
    name: str
    output: str
    model: Any
    data: Any
    train: TrainConfig
    rdrop: RDropConfig
    eval: EvalConfig

    unit: ClassVar[str]  # what throughput is counted in: one of them is a position of the loss
    terms: ClassVar[Tuple[str, str]] = ("ce", "kl")  # of the loss, as logs call them: what labels ask for, and alpha times what
    columns: ClassVar[Tuple[str, ...]] = ("train.lr", "rdrop.passes", "rdrop.alpha", "rdrop.shared_blocks")  # of each runs.csv
    measure: ClassVar[Measure]
    free: ClassVar[Dict[str, Optional[str]]] = {}  # as FREE, of the sections of the task
    former_names: ClassVar[Dict[str, str]] = {}  # {key in older configs: key now}

    def to_yaml(self):
        """The whole configuration as YAML; `load_config` reads it back as it is."""
        return yaml.safe_dump(asdict(self), sort_keys=False)

    def changeable(self):
        """FREE and `free`, less what changes the result with these settings: a summed KL grows with the micro-batch."""
        summed = self.rdrop.reduction == "sum" and self.rdrop.alpha > 0
        return {key: note for key, note in (FREE | self.free).items() if not (summed and key == "train.micro_batch_size")}

    def changeable_on_resuming(self):
        """`changeable`, and the number of updates under the schedule that does not depend on it."""
        return self.changeable() | ({"train.steps": None} if self.train.schedule == "inverse_sqrt" else {})

    def immaterial(self):
        """The keys of `changeable` on which no published result depends."""
        same = (None, OTHER_MASKS, ROUNDING)
        return {key for key, note in self.changeable().items() if note in same} - {"eval.split"}

    def scored_by(self):
        """The keys of `changeable` that held-out scores depend on: those before and after a change do not compare."""
        return ()

    def official_alpha(self):
        """rdrop.alpha in the terms of the official code, in words, where those differ."""
        return ""

    @property
    def selection(self):
        """The Measure that selects the best weights on the held-out part: the leading one, unless a task says otherwise."""
        return self.measure

    def has_held_out(self):
        """Whether there is a part "val" to select the best weights by."""
        return True

    def hyper_parameters(self):
        """{name: number or word} of what runs are most often told apart by."""
        names = ("lr", "seed", "steps", "batch_size", "warmup_steps", "schedule", "optimizer")
        own = {"drop_rate": self.model.drop_rate, "model": self.model.name, "data": self.data.name}
        of_rdrop = {"passes": self.rdrop.passes, "alpha": self.rdrop.alpha}
        return of_rdrop | {key: getattr(self.train, key) for key in names} | own

    def check_dropout(self, *rates):
        """Raises a UserError where passes are to differ and none of these keys of `model` lets them."""
        if self.rdrop.alpha > 0 and not any(getattr(self.model, rate) for rate in rates):
            raise UserError(
                "model.drop_rate is 0, so that the two passes would not differ and their KL would be 0: set for example "
                "model.drop_rate=0.1, or rdrop.alpha=0"
            )

    def check_batch_size(self):
        """Raises a UserError unless updates are counted in samples, from which the accumulation follows."""
        if self.train.accumulation is not None:
            raise UserError("train.accumulation follows from train.batch_size and train.micro_batch_size here: leave it null")
        for key in ("batch_size", "micro_batch_size"):
            if getattr(self.train, key) is None:
                raise UserError(f"train.{key} is null: give the number of {self.unit}")

    def check(self):
        """Raises a UserError when values contradict each other."""
        _check_training(self.train)
        if self.rdrop.passes == 1 and self.rdrop.alpha > 0:
            raise UserError(f"rdrop.alpha is {self.rdrop.alpha} but rdrop.passes is 1: set rdrop.passes=2, or rdrop.alpha=0")
        if self.rdrop.passes == 1 and self.rdrop.shared_blocks > 0:
            raise UserError(
                f"rdrop.shared_blocks is {self.rdrop.shared_blocks} but rdrop.passes is 1: one pass has nothing to share"
            )
        if self.measure.in_percent and (self.eval.target or 0) > 1:
            raise UserError(f"eval.target is {self.eval.target}: {self.measure.name} is from 0 to 1")
        if self.name in ("", ".", "..") or Path(self.name).name != self.name:
            raise UserError(f"name is {self.name!r}: give a plain folder name")


def accumulation(train, ranks):
    """Micro-batches per update and rank: batch_size / (micro_batch_size * ranks).

    Raises:
        UserError: it does not divide; the message names three batch sizes that do.
    """
    unit = train.micro_batch_size * ranks
    if train.batch_size % unit:
        first = max(train.batch_size // unit, 1)
        nearest = ", ".join(str(unit * n) for n in range(first, first + 3))
        raise UserError(
            f"train.batch_size {train.batch_size} is no multiple of train.micro_batch_size {train.micro_batch_size} "
            f"x {ranks} rank(s) = {unit}: give for example {nearest}"
        )
    return train.batch_size // unit


def share_of_update(train, rank, ranks):
    """How many micro-batches of each update this rank computes: the ranks take turns on the list of all of them.

    Raises:
        UserError: some rank would have none, or samples do not divide, see `accumulation`.
    """
    if train.accumulation is None:
        return accumulation(train, ranks)
    if train.accumulation < ranks:
        raise UserError(
            f"train.accumulation is {train.accumulation}, which leaves some of {ranks} ranks without a micro-batch: "
            f"start fewer, or set train.accumulation={ranks} and shorter micro-batches"
        )
    return len(range(rank, train.accumulation, ranks))


def check_ranks(train, ranks):
    """Refuse settings that this number of ranks cannot have.

    Raises:
        UserError: micro-batches that the ranks cannot share, sharding over one rank, or O2 on several that accumulate.
    """
    share = share_of_update(train, 0, ranks)
    if train.amp == "O2" and ranks > 1 and share > 1:
        raise UserError(
            f"train.amp is O2 and each of {ranks} ranks has {share} micro-batches an update, whose gradients Paddle's "
            "DataParallel cannot add up there: train.amp=O1, or one micro-batch a rank"
        )
    if train.sharding == 2 and train.accumulation is not None and train.accumulation % ranks:
        raise UserError(  # each backward of one rank meets one of every other
            f"train.sharding is 2 and {ranks} ranks cannot share train.accumulation {train.accumulation} evenly: "
            f"train.sharding=1, or train.accumulation={ranks * share}"
        )
    if train.sharding and ranks == 1:
        raise UserError(f"train.sharding is {train.sharding} but there is one rank only: start several, or train.sharding=0")


def flatten(tree, prefix=""):
    """{"train.lr": 0.1, ...} of nested dicts."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _check_training(train):
    if train.warmup_steps >= train.steps:
        raise UserError(f"train.warmup_steps {train.warmup_steps} must be below train.steps {train.steps}")
    if train.schedule == "inverse_sqrt" and train.warmup_steps == 0:
        raise UserError("train.schedule is inverse_sqrt, which falls from the end of the warm-up: train.warmup_steps=1 or more")
    if train.sharding and train.amp != "off" and train.amp_dtype == "float16":
        raise UserError("train.sharding and float16, whose loss scaling looks at all gradients: train.amp_dtype=bfloat16")
    if train.sharding == 2 and train.amp == "O2":
        raise UserError("train.sharding is 2 and train.amp O2, which would add gradients up in 16 bits: train.amp=O1")
    if train.skip_nonfinite and (train.amp == "O2" or (train.amp == "O1" and train.amp_dtype == "float16")):
        raise UserError("train.skip_nonfinite needs train.amp off, or O1 with bfloat16: float16's loss scaling skips by itself")
