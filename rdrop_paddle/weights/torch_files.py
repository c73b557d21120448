"""What torch.save writes, today's zip archives and the files of before torch 1.6, read without torch."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..safe_pickle import Callable
from . import training_pickle
from .element_types import array_of, width

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "Float": "f4",
    "Double": "f8",
    "Half": "f2",
    "BFloat16": "bf16",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "b1",
}


class _Storage:
    """A torch storage: `count` raw values that tensors are views of. They are read when a tensor is wanted.

    `kind` is a numpy kind, or an Unknown for types that are no weights'.
    """

    __slots__ = ("_read", "_values", "count", "kind")

    def __setstate__(self, state):
        raise ValueError("a storage with a state")

    def __init__(self, kind, count, read=None):
        self.kind, self.count, self._read, self._values = kind, count, read, None

    def fill(self, content):
        self._values = array_of(content, self.kind)
        if len(self._values) != self.count:
            raise ValueError("a storage of another size than announced")

    @property
    def values(self):
        if self._values is None:
            self.fill(self._read())
        return self._values


class _Tensor:
    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage, offset, size, stride, *_):
        views = isinstance(storage, _Storage) and type(size) is type(stride) is tuple
        if not (views and all(type(n) is int for n in (offset, *size, *stride))):
            raise ValueError("a tensor of something else than numbers")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def __setstate__(self, state):
        raise ValueError("a tensor with a state")

    def array(self):
        """The tensor as an array of its own; a view that leaves its storage is an error."""
        values, size, stride = self.storage.values, self.size, self.stride
        if min((*size, *stride, self.offset), default=0) < 0 or len(size) != len(stride):
            raise ValueError("a tensor with a negative size, stride or offset")
        last = self.offset + sum((n - 1) * step for n, step in zip(size, stride))
        if 0 in size:
            return np.zeros(size, values.dtype)
        if last >= len(values) or math.prod(size) > len(values):
            raise ValueError("a tensor larger than its storage")
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], size, steps, writeable=False).copy()


def _with_attributes(make, _kind, arguments, _state):
    """A tensor of a class of its own, or with attributes."""
    if not isinstance(make, Callable):
        raise ValueError("a tensor made by something else than a function")
    return make(*arguments)


_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): Callable(_Tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Callable(_Tensor),
    ("torch._utils", "_rebuild_parameter"): Callable(lambda tensor, *_: tensor),
    ("torch._utils", "_rebuild_parameter_with_state"): Callable(lambda tensor, *_: tensor),
    ("torch._tensor", "_rebuild_from_type_v2"): Callable(_with_attributes),
    **{("torch", f"{name}Storage"): kind for name, kind in _TYPES.items()},
}


def read_archive(path, choice):
    """The arrays of a zip archive; `choice` is a Choice."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled.rpartition("/")[0]
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise UserError(f"{path}: written on a big-endian machine; save it again on another")
        storages = {}

        def read(pid):
            kind, key, count = _storage_id(pid)
            return storages.setdefault(key, _Storage(kind, count, lambda: archive.read(f"{folder}/data/{key}")))

        found = training_pickle.load(io.BytesIO(archive.read(pickled)), str(path), _GLOBALS, read)
        return _arrays(choice.dictionary(found, _is_tensor), path)


def read_legacy(path, choice):
    """The arrays of a file of before torch 1.6: five pickles, then the storages one after the other."""
    storages = {}

    def read(pid):
        if pid[0] == "module":  # a class and its source text, of a model that was saved whole
            return pid[1]
        kind, key, count = _storage_id(pid)
        return storages.setdefault(key, _Storage(kind, count))

    file = io.BytesIO(Path(path).read_bytes())
    if training_pickle.load(file, str(path), {}) != LEGACY_MAGIC:
        raise UserError(f"{path}: not a torch file; check the download")
    for _ in range(2):  # protocol version, machine
        training_pickle.load(file, str(path), {})
    found = training_pickle.load(file, str(path), _GLOBALS, read)
    tensors = choice.dictionary(found, _is_tensor)
    for key in training_pickle.load(file, str(path), {}):
        storage = storages[str(key)]
        _check_type(storage, path, key)
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        storage.fill(_exactly(file, count * width(storage.kind)))
    return _arrays(tensors, path)


def _storage_id(pid):
    """(kind, key, count) of a persistent id, which the pickle could make of anything."""
    _, kind, key, _, count, *_ = pid
    known = type(kind) is str and kind in _TYPES.values()
    if not ((known or isinstance(kind, training_pickle.Unknown)) and type(key) is str and type(count) is int):
        raise ValueError("an unknown kind of storage")
    return kind, key, count


def _is_tensor(value):
    return isinstance(value, _Tensor)


def _arrays(values, path):
    tensors = {name: value for name, value in values.items() if _is_tensor(value)}
    for name, tensor in tensors.items():
        _check_type(tensor.storage, path, name)
    held = sum(storage.count for storage in {tensor.storage for tensor in tensors.values()})
    if sum(math.prod(tensor.size) for tensor in tensors.values()) > 2 * held:
        raise ValueError("far more values than the file holds")
    return {name: tensor.array() for name, tensor in tensors.items()}


def _check_type(storage, path, name):
    if isinstance(storage.kind, training_pickle.Unknown):
        raise UserError(f"{path}: {name} has type {storage.kind.name[:80]}, which weights do not have")


def _exactly(file, length):
    content = file.read(length)
    if len(content) != length:
        raise ValueError("cut short")
    return content
