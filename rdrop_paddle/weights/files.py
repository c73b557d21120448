"""Reading the containers that weights come in, recognised by content, as named arrays; nothing in them can run code."""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict

import numpy as np
import safetensors

from .. import safe_pickle
from ..durability import checkpoint
from ..durability.files import sha256_of
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


def read_weight_file(path, sha256=None):
    """The arrays of a weight file; bfloat16 becomes float32, every other type stays.

    Args:
        sha256: what the file's must be; without it a file of the same name with .sha256 behind it is looked for.

    Raises:
        UserError: the file is absent, damaged, of no known container, has another checksum, asks for more than tensors, or
            holds a training run's momentum.
    """
    try:
        found = sha256_of(path)
        with open(path, "rb") as file:
            start = file.read(10)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from None
    expected = _sha256_beside(path) if sha256 is None else sha256
    if expected is not None and found != expected.lower():
        raise UserError(f"{path}: sha256 {found}, expected {expected}; download it again")
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
            if (holds := checkpoint.holds(path, metadata)) not in ("model", "ema"):
                raise UserError(
                    f"{path} holds the {holds} of a training run and no weights: give model.safetensors beside it, or the "
                    f"run's {checkpoint.BEST}"
                )
            return WeightFile(container, arrays, metadata, found)
    raise UserError(f"{path}: neither .npz, .safetensors, .pth nor .pdparams by its content; check the download")


def _sha256_beside(path):
    """The digest in the file `path`.sha256, as sha256sum writes it (the digest, then the name), or None."""
    beside = Path(f"{path}.sha256")
    try:
        return (beside.read_text().split() or [""])[0] if beside.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {beside}: {error}") from None


def _guarded(read, path):
    try:
        arrays, metadata = read(path)
        for array in arrays.values():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
                raise ValueError("a tensor of something other than numbers")
        return arrays, metadata
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything: BadZipFile, zlib.error, TokenError, RuntimeError, ...
        raise UserError(f"{path}: damaged file ({type(error).__name__}); download it again") from None


def _is_torch_archive(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:  # damaged: _read_npz will say so
        return False


def _read_npz(path):
    """Member by member, whole: np.load reads no further than a header says and then never sees a wrong CRC."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            content = io.BytesIO(archive.read(member))
            arrays[member.removesuffix(".npy")] = np.lib.format.read_array(content, allow_pickle=False)
            if content.read(1):
                raise ValueError("an array shorter than its file")
    return arrays, {}


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
    latin1 = {("_codecs", "encode"): safe_pickle.Callable(_latin1)}
    allowed = safe_pickle.NUMPY_ARRAYS | safe_pickle.CONTAINERS | latin1
    found = safe_pickle.loads(Path(path).read_bytes(), str(path), allowed)
    arrays = {}
    for name, value in _state_dict(found, path, _paddle_array).items():
        array = _paddle_array(value)
        if array is not None:
            arrays[name] = _bfloat16(array) if array.dtype == np.uint16 else array  # Paddle's way to hold bfloat16
    return arrays, {}


def _latin1(text, encoding):
    """What pickles of protocol 2 write bytes with: `_codecs.encode`, for this one encoding."""
    if encoding != "latin1":
        raise ValueError("another encoding")
    return text.encode("latin1")


def _paddle_array(value):
    """The array of a value in a Paddle state dict, which is it or (parameter name, array); None for anything else."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    return value.value if isinstance(value, safe_pickle.Array) else None


def _state_dict(found, path, as_array):
    """`found`, or the dictionary in it that is a ViT's, as in {"model": {...}, "optimizer": {...}}, or holds most tensors."""
    candidates, merits = {}, {}
    if isinstance(found, dict):
        candidates = {"": found} | {str(name): value for name, value in found.items() if isinstance(value, dict)}
    for name, values in candidates.items():
        tensors = [key for key, value in values.items() if isinstance(key, str) and as_array(value) is not None]
        # a ViT's before an optimizer's, which may have several tensors a parameter
        merits[name] = (any(key.endswith("cls_token") for key in tensors), len(tensors))
    best = max(merits.values(), default=(False, 0))
    names = [name for name, merit in merits.items() if merit == best]
    if best == (False, 0):
        raise UserError(f"{path}: holds no dictionary of tensors")
    if len(names) > 1:
        raise UserError(f"{path}: holds {' and '.join(names)}, alike in size; save the one you mean in a file of its own")
    return {key: value for key, value in candidates[names[0]].items() if isinstance(key, str)}


class _Storage:
    """A torch storage: raw values that tensors are views of. Old files hold the values behind the tensors."""

    __slots__ = ("count", "kind", "values")

    def __setstate__(self, state):
        raise ValueError("a storage with a state")

    def __init__(self, kind, count, values=None):
        self.kind, self.count, self.values = kind, count, values


class _Tensor:
    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage, offset, size, stride, *_):
        if not (isinstance(storage, _Storage) and all(type(n) is int for n in (offset, *size, *stride))):
            raise ValueError("a tensor of something else than numbers")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def __setstate__(self, state):
        raise ValueError("a tensor with a state")

    def array(self):
        """The tensor as an array of its own; a view that leaves its storage is an error."""
        values, size, stride = self.storage.values, tuple(self.size), tuple(self.stride)
        if min((*size, *stride, self.offset), default=0) < 0 or len(size) != len(stride):
            raise ValueError("a tensor with a negative size, stride or offset")
        last = self.offset + sum((n - 1) * step for n, step in zip(size, stride))
        if 0 in size:
            return np.zeros(size, values.dtype)
        if last >= len(values) or math.prod(size) > len(values):
            raise ValueError("a tensor larger than its storage")
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], size, steps, writeable=False).copy()


_TORCH_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): safe_pickle.Callable(_Tensor),
    ("torch._utils", "_rebuild_parameter"): safe_pickle.Callable(lambda tensor, *_: tensor),
    **safe_pickle.CONTAINERS,
    **{("torch", f"{name}Storage"): kind for name, kind in _TORCH_TYPES.items()},
}


def _storage_id(pid):
    """(kind, key, count) of a persistent id, which the pickle could make of anything."""
    _, kind, key, _, count, *_ = pid
    if not (type(kind) is str and kind in _TORCH_TYPES.values() and type(key) is str and type(count) is int):
        raise ValueError("an unknown kind of storage")
    return kind, key, count


def _read_torch_archive(path):
    with zipfile.ZipFile(path) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled.rpartition("/")[0]
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise UserError(f"{path}: written on a big-endian machine; save it again on another")
        storages = {}

        def storage_of(pid):
            kind, key, count = _storage_id(pid)
            if key not in storages:
                storages[key] = _Storage(kind, count, _array(archive.read(f"{folder}/data/{key}"), kind))
            return storages[key]

        found = safe_pickle.load(io.BytesIO(archive.read(pickled)), str(path), _TORCH_GLOBALS, storage_of)
        return _torch_arrays(found, path, storages), {}


def _read_torch_legacy(path):
    """The format of torch before 1.6: five pickles, then the storages one after the other."""
    storages = {}

    def storage_of(pid):
        kind, key, count = _storage_id(pid)
        return storages.setdefault(key, _Storage(kind, count))

    file = io.BytesIO(Path(path).read_bytes())
    if safe_pickle.load(file, str(path), {}) != TORCH_LEGACY_MAGIC:
        raise UserError(f"{path}: not a torch file; check the download")
    for _ in range(2):  # protocol version, machine
        safe_pickle.load(file, str(path), {})
    found = safe_pickle.load(file, str(path), _TORCH_GLOBALS, storage_of)
    for key in safe_pickle.load(file, str(path), {}):
        storage = storages[str(key)]
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        if count != storage.count:
            raise ValueError("a storage of another size than announced")
        width = 2 if storage.kind == "bf16" else np.dtype(storage.kind).itemsize
        storage.values = _array(_exactly(file, count * width), storage.kind)
    return _torch_arrays(found, path, storages), {}


def _exactly(file, length):
    content = file.read(length)
    if len(content) != length:
        raise ValueError("cut short")
    return content


def _torch_arrays(found, path, storages):
    tensors = _state_dict(found, path, lambda value: value if isinstance(value, _Tensor) else None)
    held = sum(storage.count for storage in storages.values())
    if sum(math.prod(tensor.size) for tensor in tensors.values() if isinstance(tensor, _Tensor)) > 2 * held:
        raise ValueError("far more values than the file holds")
    return {name: tensor.array() for name, tensor in tensors.items() if isinstance(tensor, _Tensor)}


def _array(content, kind):
    return _bfloat16(np.frombuffer(content, "<u2")) if kind == "bf16" else np.frombuffer(content, f"<{kind}")


def _bfloat16(bits):
    """uint16 bit patterns of bfloat16 as float32: they are its upper half."""
    return (bits.astype("<u4") << 16).view("<f4")
