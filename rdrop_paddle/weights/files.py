"""Reading the containers that weights come in, recognised by content, as named arrays; nothing in them can run code."""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List

import numpy as np
import safetensors

from ..durability import checkpoint
from ..durability.files import sha256_of
from ..errors import UserError
from ..safe_pickle import Array
from . import torch_files, training_pickle
from .element_types import array_of, bfloat16
from .state_dicts import Choice

_SAFETENSORS_TYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "bf16",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "b1",
}
IN_FOLDER = (  # what a folder's weights are called, the first that is there
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model_state.pdparams",
    checkpoint.BEST,
)
AVERAGE_IN_FOLDER = "ema.safetensors"


@dataclass
class WeightFile:
    """`container` is npz, safetensors, torch or paddle; `metadata` that of a safetensors header; `notes` tell what was chosen.

    The sha256 of several shards is that of what `sha256sum INDEX SHARDS` prints, the shards in the order of their names.
    """

    container: str
    arrays: Dict[str, np.ndarray]
    metadata: Dict[str, str]
    sha256: str
    notes: List[str] = field(default_factory=list)


def read_weight_file(path, sha256=None, *, anchor=None, ema=False):
    """The arrays of a weight file under a model's own names; bfloat16 becomes float32, every other type stays.

    Args:
        path: the file; an index of shards, as Hugging Face's model.safetensors.index.json; or a folder with one of IN_FOLDER.
        sha256: what the file's must be; without it a file of the same name with .sha256 behind it is looked for.
        anchor: by which the model is known in a file that holds more, see state_dicts.py.
        ema: the average of the weights instead of the weights beside it.

    Raises:
        UserError: the file is absent, damaged, of no known container, has another checksum, asks for more than tensors, holds a
            training run's momentum, or no average where one is asked for.
    """
    path = Path(path)
    choice = Choice(path, anchor, ema)
    if path.is_dir():
        path = _in_folder(path, choice, ema)
    start = _start(path)
    is_text = start[:1] == b"{" and b"\0" not in start  # as the size is with which safetensors begin
    file = _read_shards(path, sha256) if is_text else _read(path, sha256, choice)
    file.arrays = choice.own_names(file.arrays)
    file.notes += choice.notes
    return file


def _in_folder(folder, choice, ema):
    average = folder / AVERAGE_IN_FOLDER
    if ema and average.exists():
        return average
    if average.exists():
        choice.notes.append(f"the average {AVERAGE_IN_FOLDER} left aside, --ema takes it")
    for name in IN_FOLDER:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"no weights in the folder {folder}: it has none of {', '.join(IN_FOLDER)}")


def _start(path):
    try:
        with open(path, "rb") as file:
            return file.read(10)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from None


def _read(path, sha256, choice):
    start, found = _start(path), _checked_sha256(path, sha256)
    readers = [
        ("npz", start[:2] == b"PK" and not _is_torch_archive(path), _read_npz),
        ("torch", start[:2] == b"PK", torch_files.read_archive),
        ("safetensors", start[8:10] in (b'{"', b"{}", b"{ "), _read_safetensors),
        ("torch", start[:4] == b"\x80\x02\x8a\x0a", torch_files.read_legacy),
        ("paddle", start[:1] == b"\x80", _read_paddle),
    ]
    for container, fits, read in readers:
        if fits:
            arrays = _guarded(read, path, choice)
            metadata = _metadata(path) if container == "safetensors" else {}
            _check_holds(path, metadata, choice)
            return WeightFile(container, arrays, metadata, found)
    raise UserError(f"{path}: neither .npz, .safetensors, .pth nor .pdparams by its content; check the download")


def _read_shards(index, sha256):
    """The arrays of all files that an index names."""
    digest = _checked_sha256(index, None)
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        shards = sorted(set(places.values()))
        if not shards or not all(Path(shard).name == shard for shard in shards):
            raise ValueError("no shards, or one in another folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index}: neither weights nor an index of shards in its folder") from None
    files = [_read(index.parent / shard, None, Choice(index.parent / shard)) for shard in shards]
    arrays = {}
    for shard, file in zip(shards, files):
        if twice := arrays.keys() & file.arrays.keys():
            raise UserError(f"{index.parent / shard}: {min(twice)} is in another shard, too")
        arrays |= file.arrays
    if absent := places.keys() - arrays.keys():
        raise UserError(f"{index}: {min(absent)} is in none of its {len(shards)} shards; get them again")
    lines = "".join(f"{d}  {name}\n" for d, name in [(digest, index.name), *((f.sha256, s) for f, s in zip(files, shards))])
    found = hashlib.sha256(lines.encode()).hexdigest()
    _compare(index, found, sha256)
    return WeightFile(files[0].container, arrays, files[0].metadata, found, [f"{len(shards)} shards"])


def _check_holds(path, metadata, choice):
    """A training run of this project writes its momentum in the same container; the header tells."""
    holds = checkpoint.holds(path, metadata)
    if holds == "ema":
        choice.take_average("an average of the weights")
    elif holds != "model":
        raise UserError(
            f"{path} holds the {holds} of a training run and no weights: give model.safetensors beside it, or the run's "
            f"{checkpoint.BEST}"
        )


def _checked_sha256(path, expected):
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from None
    _compare(path, found, _sha256_beside(path) if expected is None else expected)
    return found


def _compare(path, found, expected):
    if expected is not None and found != expected.lower():
        raise UserError(f"{path}: sha256 {found}, expected {expected}; get it again")


def _sha256_beside(path):
    """The digest in the file `path`.sha256, as sha256sum writes it (the digest, then the name), or None."""
    beside = Path(f"{path}.sha256")
    try:
        return (beside.read_text().split() or [""])[0] if beside.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {beside}: {error}") from None


def _guarded(read, path, choice):
    try:
        arrays = read(path, choice)
        for array in arrays.values():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
                raise ValueError("a tensor of something other than numbers")
        return arrays
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything: BadZipFile, zlib.error, TokenError, RuntimeError, ...
        raise UserError(f"{path}: damaged file ({type(error).__name__}); get it again") from None


def _is_torch_archive(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:  # damaged: _read_npz will say so
        return False


def _read_npz(path, _):
    """Member by member, whole: np.load reads no further than a header says and then never sees a wrong CRC."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            content = io.BytesIO(archive.read(member))
            array = np.lib.format.read_array(content, allow_pickle=False)
            if content.read(1):
                raise ValueError("an array shorter than its file")
            arrays[member.removesuffix(".npy")] = bfloat16(array.view("<u2")) if array.dtype == "V2" else array  # JAX's way
    return arrays


def _metadata(path):
    with safetensors.safe_open(str(path), framework="numpy") as archive:
        return archive.metadata() or {}


def _read_safetensors(path, _):
    with open(path, "rb") as file:
        entries = safetensors.deserialize(file.read())
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_TYPES:
            raise UserError(f"{path}: {name} has type {entry['dtype']}, which weights do not have")
        arrays[name] = array_of(bytes(entry["data"]), _SAFETENSORS_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _read_paddle(path, choice):
    found = training_pickle.loads(path.read_bytes(), str(path), {})
    tensors = choice.dictionary(found, lambda value: _paddle_array(value) is not None)
    arrays = {name: array for name, value in tensors.items() if (array := _paddle_array(value)) is not None}
    # uint16 is Paddle's way to hold bfloat16
    return {name: bfloat16(array) if array.dtype == np.uint16 else array for name, array in arrays.items()}


def _paddle_array(value):
    """The array of a value in a Paddle state dict, which is it or (parameter name, array); None for anything else."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    return value.value if isinstance(value, Array) else None
