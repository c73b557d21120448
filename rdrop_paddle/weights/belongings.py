"""What belongs to weights beside their tensors, such as the names of their classes: JSON values, each of a name of its own.

The header of every weight file that this project writes has each as a JSON text under its name, and the run folder as
NAME.json, which may lie beside weights of other formats as well.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors

from ..errors import UserError

TOKENS, CLASSES, MODEL = "tokenizer", "classes", "model"  # the names: tokens, classes in the order of the logits, settings


class Belonging(NamedTuple):
    """A JSON value and where it was found, for messages."""

    value: Any
    source: str


def find(path, name):
    """The Belonging of the weights at `path` in their header, else in NAME.json beside them, or None.

    Raises:
        UserError: a file beside them that cannot be read.
    """
    header = _header(path)
    if name in header:
        try:
            return Belonging(json.loads(header[name]), f"the header of {path}")
        except ValueError:  # a text that somebody else has put there
            pass
    return read_beside(path, f"{name}.json")


def find_classes(path):
    """As `find`, of CLASSES.

    Raises:
        UserError: these are no names.
    """
    found = find(path, CLASSES)
    if found and not (isinstance(found.value, list) and all(isinstance(name, str) for name in found.value)):
        raise UserError(f"{found.source} is no list of the names of classes: mend it or move it away")
    return found


def every(path):
    """{name: JSON value} of all that belongs to the weights at `path`; raises as `find`."""
    return {name: found.value for name in (TOKENS, CLASSES, MODEL) if (found := find(path, name))}


def read_beside(path, file_name):
    """The Belonging of a JSON file in the folder of the weights at `path`, or None where there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        return Belonging(json.loads((folder / file_name).read_bytes()), str(folder / file_name))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {folder / file_name}, beside the weights: {reason}; mend it or move it away") from None


def _header(path):
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError):  # of another format
        return {}
