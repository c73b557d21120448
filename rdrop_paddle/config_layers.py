"""A config from its layers: the defaults of a task, a YAML file, and `key=value` overrides, each on top of the one before.

Defaults lie in configs/base/ of this package: common.yaml, and on top of it the file of the task.
"""

import difflib
from dataclasses import fields
from operator import ge, gt, le, lt
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from .errors import UserError

BOUNDS = {"low": (ge, ">="), "above": (gt, "above"), "high": (le, "<="), "below": (lt, "below")}
DEFAULTS = Path(__file__).resolve().parent / "configs" / "base"


def read_layers(path, overrides):
    """[(source, mapping)] of the YAML file `path` (None = no file) and of each override such as "train.steps=300".

    Raises:
        UserError: an unreadable file, or an override that is not key=value.
    """
    files = [] if path is None else [(path, read_yaml(path))]
    return files + [(override, _parse(override)) for override in overrides]


def merge(sections, task, layers):
    """The defaults of `task`, then `layers` as `read_layers` gives them, as an object of the class `sections`, checked.

    Args:
        sections: a subclass of config.Config.

    Raises:
        UserError: an unknown key, a wrong type, a value out of range, or values that contradict each other; the message
            names the place and, for a key, the nearest valid one.
    """
    merged = OmegaConf.structured(sections)
    for source, layer in [
        *((path, read_yaml(path)) for path in (DEFAULTS / "common.yaml", DEFAULTS / f"{task}.yaml")),
        *layers,
    ]:
        try:
            merged = OmegaConf.merge(merged, _with_names_of_now(source, layer, sections.former_names))
        except ConfigKeyError as error:
            raise UserError(_unknown_key(source, error.full_key, sections)) from None
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise UserError(in_one_line(source, error)) from None
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(in_one_line(layers[0][0] if layers else "the defaults", error)) from None
    if config.train.amp == "False":
        config.train.amp = "off"  # YAML reads a bare off as false
    _check_ranges(config)
    config.check()
    return config


def _with_names_of_now(source, layer, former_names):
    """The layer with `former_names`, {section.key in older configs: section.key now}, replaced."""
    for former, now in former_names.items():
        section, key = former.split(".")
        if OmegaConf.is_dict(layer.get(section)) and key in layer[section]:
            value, key_now = layer[section].pop(key), now.rpartition(".")[2]
            if key_now in layer[section]:
                raise UserError(f"{source}: {former} is the former name of {now}, which is there too: leave {former} out")
            layer[section][key_now] = value
    return layer


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


def _unknown_key(source, key, sections):
    near = difflib.get_close_matches(key, _keys(sections), n=1, cutoff=0)
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
