"""A config from its layers: the defaults of a task, a YAML file, and `key=value` overrides, each on top of the one before.

Defaults lie in configs/base/ of this package: common.yaml, and on top of it the file of the task. What a value is follows from
the type of its field and not from its looks, as in YAML: to a field of text `007`, `on` and `2024_01_01` are just that.
"""

import difflib
import re
from dataclasses import fields, is_dataclass
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
    return files + [(override, _nested(override)) for override in overrides]


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
        layer = _read_by_type(source, _with_names_of_now(source, layer, sections.former_names), sections)
        try:
            overlay(merged, layer)
        except ConfigKeyError as error:
            raise UserError(_unknown_key(source, error.full_key, sections)) from None
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise UserError(in_one_line(source, error)) from None
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(in_one_line(layers[0][0] if layers else "the defaults", error)) from None
    _check_ranges(config)
    config.check()
    return config


def _with_names_of_now(source, layer, former_names):
    """The layer with `former_names`, {section.key in older configs: section.key now}, replaced."""
    for former, now in former_names.items():
        section, key = former.split(".")
        if isinstance(layer.get(section), dict) and key in layer[section]:
            value, key_now = layer[section].pop(key), now.rpartition(".")[2]
            if key_now in layer[section]:
                raise UserError(f"{source}: {former} is the former name of {now}, which is there too: leave {former} out")
            layer[section][key_now] = value
    return layer


def read_yaml(path):
    """The mapping in a YAML file, whose scalars are text or null; raises a UserError when there is none to be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config {path}: {getattr(error, 'strerror', None) or error}") from None
    layer = _parsed(path, text)
    if not isinstance(layer or {}, dict):
        raise UserError(f"{path}: not a YAML mapping such as 'train: {{steps: 300}}'")
    return layer or {}


def overlay(structured, layer):
    """Puts a mapping on top of an omegaconf config, whose text is converted to the fields' types and otherwise left as it is.

    Returns the config itself: a copy for each layer, as `OmegaConf.merge` makes it, takes most of the time.
    """
    structured.merge_with(_without_interpolation(layer))
    return structured


def in_one_line(source, error):
    """The text of a UserError for what omegaconf found wrong in `source`."""
    message = str(error).splitlines()[0].strip()
    if "is not a ListConfig" in message:
        message = "give a list such as [0.9, 0.98]"
    key = getattr(error, "full_key", None)
    return f"{source}{f', {key}' if key else ''}: {message}"


_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built so, as its wheels are


class _Loader(_YamlLoader):
    """Reads scalars as text, but for null, and takes no key twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012, as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
        for first, resolvers in _YamlLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                raise yaml.MarkedYAMLError(problem=f"key given twice: {key.value}", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


class _Typed(str):
    """A value as it stands behind `key=`: how it is read depends on the type of the field."""


def _nested(override):
    """{"train": {"steps": text}} of "train.steps=text"."""
    key, equals, value = override.partition("=")
    if not (key and equals):
        raise UserError(f"-o {override}: write key=value, for example train.steps=300")
    nested = _Typed(value)
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def _read_by_type(source, layer, section):
    """The layer with what is _Typed as text where the field's type is that, otherwise as YAML: a list, null, quotes."""
    types = {f.name: f.type for f in fields(section)}
    read = {}
    for key, value in layer.items():
        if isinstance(value, dict) and is_dataclass(types.get(key)):
            value = _read_by_type(source, value, types[key])
        elif isinstance(value, _Typed):
            value = _unquoted(value) if types.get(key) is str else _parsed(source, str(value))
        read[key] = value
    return read


def _unquoted(text):
    """The text as it stands, but for quotes around all of it, which mean in a YAML file what they mean here."""
    return text[1:-1] if re.fullmatch(r"""(["'])((?!\1).)*\1""", text, re.DOTALL) else str(text)


def _parsed(source, text):
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{source}{_fault(text, error)}") from None


def _fault(text, error):
    """What is wrong with a YAML text and in which line, in words for who wrote it; not which rule of the grammar it broke."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": {str(error).splitlines()[0]}"
    if re.match(" *\t", "".join(text.splitlines()[mark.line : mark.line + 1])):
        return f", line {mark.line + 1}: indented with tabs, which YAML does not take: use spaces"
    context = "" if (error.context or "while").startswith("while") else f"{error.context} "
    return f", line {mark.line + 1}: {context}{error.problem}"


def _without_interpolation(tree):
    """Nested dicts and lists with "${" escaped, which omegaconf would take for a reference to another key."""
    if isinstance(tree, dict):
        return {key: _without_interpolation(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return list(map(_without_interpolation, tree))
    if tree == "???":
        raise ValueError("??? stands for a value that is missing: give one")
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree) if isinstance(tree, str) else tree


def _unknown_key(source, key, sections):
    near = difflib.get_close_matches(key, _keys(sections), n=1, cutoff=0)
    if near[0] == key:  # written with its point, where YAML has sections
        section, _, name = key.rpartition(".")
        return f"{source}: write the key {key} as {{{section}: {{{name}: ...}}}}, {name} within its section"
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
