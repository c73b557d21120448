"""The configuration: typed dataclasses here, defaults in configs/base.yaml, a YAML file and `key=value` overrides on top.

config = load_config("configs/vit_b16_cifar100_rdrop.yaml", ["model.image_size=224"])
"""

import difflib
from dataclasses import asdict, dataclass, field, fields
from operator import ge, gt, le, lt
from pathlib import Path
from typing import List, Optional

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from .errors import UserError

BASE = Path(__file__).resolve().parent.parent / "configs" / "base.yaml"
OTHER_MASKS = "the samples and the mathematics are the same, but dropout masks differ from here on"
ROUNDING = "the result is the same up to rounding"
# keys that may change when a run is resumed, and what the log then says; a change of any other would change the result
FREE = {
    "name": None,
    "output": None,
    "data.path": None,  # checkpoints know the data by their content
    "data.workers": None,
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
    "eval.target_accuracy": None,
}
BOUNDS = {"low": (ge, ">="), "above": (gt, "above"), "high": (le, "<="), "below": (lt, "below")}


def changeable(settings):
    """FREE, less what changes the result with these `settings`, a {key: value}: a summed KL grows with the micro-batch."""
    summed = settings["rdrop.reduction"] == "sum" and settings["rdrop.alpha"] > 0
    return {key: note for key, note in FREE.items() if not (summed and key == "train.micro_batch_size")}


def _within(length=None, **bounds):
    """A number, or with `length` a list of so many, within some of the BOUNDS."""
    return field(metadata={"length": length, "bounds": bounds})


def _one_of(*choices):
    return field(metadata={"choices": choices})


@dataclass
class ModelConfig:
    name: str
    patch_size: Optional[int] = _within(low=1)
    embed_dim: Optional[int] = _within(low=1)
    depth: Optional[int] = _within(low=1)
    num_heads: Optional[int] = _within(low=1)
    mlp_ratio: Optional[float] = _within(above=0)
    image_size: int = _within(low=1)
    classes: int = _within(low=1)
    drop_rate: float = _within(low=0, high=1)
    proj_drop_rate: float = _within(low=0, high=1)
    qkv_bias: bool
    epsilon: float = _within(above=0)
    weights: str


@dataclass
class DataConfig:
    name: str = _one_of("cifar100", "cifar10", "digits", "folder")
    path: str
    images_per_class: Optional[int] = _within(low=1)
    val_fraction: float = _within(low=0, high=0.9)
    crop_scale: float = _within(above=0, high=1)
    flip: bool
    workers: int = _within(low=0)


@dataclass
class TrainConfig:
    steps: int = _within(low=1)
    batch_size: int = _within(low=1)
    micro_batch_size: int = _within(low=1)
    lr: float = _within(low=0)
    schedule: str = _one_of("cosine", "inverse_sqrt", "linear", "polynomial")
    power: float = _within(above=0)
    warmup_steps: int = _within(low=0)
    warmup_init_lr: float = _within(low=0)
    clip_norm: Optional[float] = _within(above=0)
    optimizer: str = _one_of("momentum", "adamw")
    momentum: float = _within(low=0, high=1)
    betas: List[float] = _within(low=0, below=1, length=2)  # noqa: RUF009
    epsilon: float = _within(low=0)
    weight_decay: float = _within(low=0)
    label_smoothing: float = _within(low=0, high=1)
    ema_decay: Optional[float] = _within(low=0, high=1)
    skip_nonfinite: int = _within(low=0)
    recompute: bool
    amp: str = _one_of("off", "O1", "O2")
    amp_dtype: str = _one_of("bfloat16", "float16")
    sharding: int = _one_of(0, 1, 2)
    seed: int = _within(low=0, high=2**32 - 1)
    log_every: int = _within(low=1)
    eval_every: int = _within(low=1)
    save_every: int = _within(low=1)
    collective_timeout: int = _within(low=5)


@dataclass
class RDropConfig:
    passes: int = _one_of(1, 2)
    alpha: float = _within(low=0)
    reduction: str = _one_of("batchmean", "mean", "sum")
    shared_blocks: int = _within(low=0)
    stop_target_gradient: bool


@dataclass
class EvalConfig:
    split: str = _one_of("test", "val")
    batch_size: int = _within(low=1)
    target_accuracy: Optional[float] = _within(low=0, high=1)


@dataclass
class Config:
    name: str
    output: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    rdrop: RDropConfig
    eval: EvalConfig

    def to_yaml(self):
        """The whole configuration as YAML; `load_config` reads it back as it is."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def load_config(path=BASE, overrides=()):
    """configs/base.yaml, then the YAML file `path`, then `overrides` such as "train.steps=300", as a checked Config.

    Raises:
        UserError: an unreadable file, an unknown key, a wrong type, a value out of range, or values that
            contradict each other; the message names the place and, for a key, the nearest valid one.
    """
    merged = OmegaConf.structured(Config)
    for source, layer in [(BASE, read_yaml(BASE)), (path, read_yaml(path)), *((o, _parse(o)) for o in overrides)]:
        try:
            merged = OmegaConf.merge(merged, layer)
        except ConfigKeyError as error:
            raise UserError(_unknown_key(source, error.full_key)) from None
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise UserError(in_one_line(source, error)) from None
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(in_one_line(path, error)) from None
    if config.train.amp == "False":
        config.train.amp = "off"  # YAML reads a bare off as false
    _check_ranges(config)
    _check_consistency(config)
    return config


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


def flatten(tree, prefix=""):
    """{"train.lr": 0.1, ...} of nested dicts."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def check_ranks(train, ranks):
    """Refuse settings that this number of ranks cannot have.

    Raises:
        UserError: a batch size that does not divide, or sharding over one rank.
    """
    accumulation(train, ranks)
    if train.sharding and ranks == 1:
        raise UserError(f"train.sharding is {train.sharding} but there is one rank only: start several, or train.sharding=0")


def read_yaml(path):
    """A YAML mapping as an omegaconf one; raises a UserError when there is none to be read."""
    try:
        layer = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config {path}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(in_one_line(path, error)) from None
    if not OmegaConf.is_dict(layer):
        raise UserError(f"{path}: not a YAML mapping such as 'train: {{steps: 300}}'")
    return layer


def _parse(override):
    key, equals, _ = override.partition("=")
    if not (key and equals):
        raise UserError(f"-o {override}: write key=value, for example train.steps=300")
    try:
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(in_one_line(override, error)) from None


def in_one_line(source, error):
    """The text of a UserError for what omegaconf or yaml found wrong in `source`."""
    message = str(error).split("\n")[0].strip()
    if "is not a ListConfig" in message:
        message = "give a list such as [0.9, 0.98]"
    key = getattr(error, "full_key", None)
    mark = getattr(error, "problem_mark", None)
    place = f", {key}" if key else f", line {mark.line + 1}" if mark else ""
    return f"{source}{place}: {message}"


def _unknown_key(source, key):
    near = difflib.get_close_matches(key, _keys(Config), n=1, cutoff=0)
    return f"{source}: unknown key {key}; the nearest valid key is {near[0]}"


def _keys(section, prefix=""):
    for f in fields(section):
        yield prefix + f.name
        if hasattr(f.type, "__dataclass_fields__"):
            yield from _keys(f.type, f"{prefix}{f.name}.")


def _check_ranges(section, prefix=""):
    for f in fields(section):
        value, key, limits = getattr(section, f.name), prefix + f.name, f.metadata
        if hasattr(value, "__dataclass_fields__"):
            _check_ranges(value, f"{key}.")
        elif value is None or not limits:
            continue
        elif "choices" in limits:
            if value not in limits["choices"]:
                raise UserError(f"{key} is {value}: give one of {', '.join(map(str, limits['choices']))}")
        else:
            length, bounds = limits["length"], limits["bounds"]
            numbers = value if length else [value]
            if len(numbers) != (length or 1) or not all(_is_within(number, bounds) for number in numbers):
                wanted = f"{length} numbers" if length else "a number"
                raise UserError(f"{key} is {value}: give {wanted} {_range_text(bounds)}")


def _is_within(value, bounds):
    # written so that NaN fails; infinity is never a sensible setting
    return abs(value) < float("inf") and all(BOUNDS[name][0](value, limit) for name, limit in bounds.items())


def _range_text(bounds):
    return " and ".join(f"{BOUNDS[name][1]} {limit}" for name, limit in bounds.items())


def _check_consistency(config):
    train, rdrop = config.train, config.rdrop
    if train.warmup_steps >= train.steps:
        raise UserError(f"train.warmup_steps {train.warmup_steps} must be below train.steps {train.steps}")
    if train.schedule == "inverse_sqrt" and train.warmup_steps == 0:
        raise UserError("train.schedule is inverse_sqrt, which falls from the end of the warm-up: train.warmup_steps=1 or more")
    if rdrop.passes == 1 and rdrop.alpha > 0:
        raise UserError(f"rdrop.alpha is {rdrop.alpha} but rdrop.passes is 1: set rdrop.passes=2, or rdrop.alpha=0")
    if rdrop.passes == 1 and rdrop.shared_blocks > 0:
        raise UserError(f"rdrop.shared_blocks is {rdrop.shared_blocks} but rdrop.passes is 1: one pass has nothing to share")
    if train.sharding and train.amp != "off" and train.amp_dtype == "float16":
        raise UserError("train.sharding and float16, whose loss scaling looks at all gradients: train.amp_dtype=bfloat16")
    if train.sharding == 2 and train.amp == "O2":
        raise UserError("train.sharding is 2 and train.amp O2, which would add gradients up in 16 bits: train.amp=O1")
    if train.skip_nonfinite and (train.amp == "O2" or (train.amp == "O1" and train.amp_dtype == "float16")):
        raise UserError("train.skip_nonfinite needs train.amp off, or O1 with bfloat16: float16's loss scaling skips by itself")
    if config.eval.split == "val" and config.data.val_fraction == 0:
        raise UserError("eval.split is val but data.val_fraction is 0, which holds out nothing: raise it")
    if config.name in ("", ".", "..") or Path(config.name).name != config.name:
        raise UserError(f"name is {config.name!r}: give a plain folder name")
