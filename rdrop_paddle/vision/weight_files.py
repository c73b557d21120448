"""Reading the containers that weights come in, recognised by content, as named arrays; nothing in them can run code."""

import hashlib
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Dict

import numpy as np
import safetensors

from .. import safe_pickle
from ..errors import UserError

TORCH_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_TYPES = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bf16", "Long": "i8", "Int": "i4", "Byte": "u1"}
_SAFETENSORS_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "U8": "u1"}


@dataclass
class WeightFile:
    """`container` is npz, safetensors, torch or paddle; `metadata` that of a safetensors header."""

    container: str
    arrays: Dict[str, np.ndarray]
    metadata: Dict[str, str]
    sha256: str


def read_weight_file(path):
    """The arrays of a weight file; bfloat16 becomes float32, every other type stays.

    Raises:
        UserError: the file is absent, damaged, of no known container, or asks for more than tensors.
    """
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
            file.seek(0)
            start = file.read(10)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from None
    readers = [
        ("npz", start[:2] == b"PK" and not _is_torch_archive(path), _read_npz),
        ("torch", start[:2] == b"PK", _read_torch_archive),
        ("safetensors", start[8:10] in (b'{"', b"{}", b"{ "), _read_safetensors),
        ("torch", start[:4] == b"\x80\x02\x8a\x0a", _read_torch_legacy),
        ("paddle", start[:1] == b"\x80", _read_paddle),
    ]
    for container, fits, read in readers:
        if fits:
            arrays, metadata = _guarded(read, path)
            return WeightFile(container, arrays, metadata, sha256)
    raise UserError(f"{path}: neither .npz, .safetensors, .pth nor .pdparams by its content; check the download")


def _sha256(file):  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _guarded(read, path):
    try:
        return read(path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything: BadZipFile, zlib.error, TokenError, RuntimeError, ...
        raise UserError(f"{path}: damaged file ({type(error).__name__}: {error}); download it again") from None


def _is_torch_archive(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:  # damaged: _read_npz will say so
        return False


def _read_npz(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}, {}


def _read_safetensors(path):
    with safetensors.safe_open(str(path), framework="numpy") as archive:
        metadata = archive.metadata() or {}
    with open(path, "rb") as file:
        entries = safetensors.deserialize(file.read())
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_TYPES:
            raise UserError(f"{path}: {name} has type {entry['dtype']}, which weights do not have")
        arrays[name] = _array(bytes(entry["data"]), _SAFETENSORS_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, metadata


def _read_paddle(path):
    allowed = safe_pickle.NUMPY_ARRAYS | {
        ("builtins", "tuple"): tuple,
        ("__builtin__", "tuple"): tuple,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1,
    }
    with open(path, "rb") as file:
        found = safe_pickle.load(file, str(path), allowed)
    arrays = {}
    for name, value in _state_dict(found, path, _paddle_array).items():
        array = _paddle_array(value)
        if array is not None:
            arrays[name] = _bfloat16(array) if array.dtype == np.uint16 else array  # Paddle's way to hold bfloat16
    return arrays, {}


def _latin1(text, encoding):
    """What pickles of protocol 2 write bytes with: `_codecs.encode`, for this one encoding."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding}")
    return text.encode("latin1")


def _paddle_array(value):
    """The array of a value in a Paddle state dict, which is it or (parameter name, array); None for anything else."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    return value if isinstance(value, np.ndarray) else None


def _state_dict(found, path, as_array):
    """`found` itself if it holds tensors, otherwise the one dict in it that does, as in {"model": {...}, "epoch": 3}."""
    if isinstance(found, dict):
        if any(as_array(value) is not None for value in found.values()):
            return found
        inner = [v for v in found.values() if isinstance(v, dict) and any(as_array(t) is not None for t in v.values())]
        if len(inner) == 1:
            return inner[0]
    raise UserError(f"{path}: holds no dictionary of tensors")


class _Storage:
    """A torch storage: raw values that tensors are views of. Old files hold the values behind the tensors."""

    def __init__(self, kind, count, values=None):
        self.kind, self.count, self.values = kind, count, values


class _Tensor:
    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self):
        """The tensor as an array of its own; a view that leaves its storage is an error."""
        values, size, stride = self.storage.values, tuple(self.size), tuple(self.stride)
        if min((*size, *stride, self.offset), default=0) < 0 or len(size) != len(stride):
            raise ValueError("a tensor with a negative size, stride or offset")
        last = self.offset + sum((n - 1) * step for n, step in zip(size, stride))
        if 0 in size:
            return np.zeros(size, values.dtype)
        if last >= len(values) or np.prod(size, dtype=object) > len(values):
            raise ValueError("a tensor larger than its storage")
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], size, steps, writeable=False).copy()


_TORCH_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("collections", "OrderedDict"): OrderedDict,
} | {("torch", f"{name}Storage"): kind for name, kind in _TORCH_TYPES.items()}


def _read_torch_archive(path):
    with zipfile.ZipFile(path) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled.rpartition("/")[0]
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise UserError(f"{path}: written on a big-endian machine; save it again on another")
        storages = {}

        def storage_of(pid):
            _, kind, key, _, count = pid
            if key not in storages:
                storages[key] = _Storage(kind, count, _array(archive.read(f"{folder}/data/{key}"), kind))
            return storages[key]

        with archive.open(pickled) as file:
            found = safe_pickle.load(file, str(path), _TORCH_GLOBALS, storage_of)
        return _torch_arrays(found, path), {}


def _read_torch_legacy(path):
    """The format of torch before 1.6: five pickles, then the storages one after the other."""
    storages = {}

    def storage_of(pid):
        _, kind, key, _, count, *_ = pid
        return storages.setdefault(key, _Storage(kind, count))

    with open(path, "rb") as file:
        if safe_pickle.load(file, str(path), {}) != TORCH_LEGACY_MAGIC:
            raise UserError(f"{path}: not a torch file; check the download")
        for _ in range(2):  # protocol version, machine
            safe_pickle.load(file, str(path), {})
        found = safe_pickle.load(file, str(path), _TORCH_GLOBALS, storage_of)
        for key in safe_pickle.load(file, str(path), {}):
            storage = storages[key]
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            if count != storage.count:
                raise ValueError(f"storage {key} holds {count} values instead of {storage.count}")
            width = 2 if storage.kind == "bf16" else np.dtype(storage.kind).itemsize
            storage.values = _array(_exactly(file, count * width), storage.kind)
    return _torch_arrays(found, path), {}


def _exactly(file, length):
    content = file.read(length)
    if len(content) != length:
        raise ValueError("cut short")
    return content


def _torch_arrays(found, path):
    tensors = _state_dict(found, path, lambda value: value if isinstance(value, _Tensor) else None)
    return {name: tensor.array() for name, tensor in tensors.items() if isinstance(tensor, _Tensor)}


def _array(content, kind):
    return _bfloat16(np.frombuffer(content, "<u2")) if kind == "bf16" else np.frombuffer(content, f"<{kind}")


def _bfloat16(bits):
    """uint16 bit patterns of bfloat16 as float32: they are its upper half."""
    return (bits.astype("<u4") << 16).view("<f4")
