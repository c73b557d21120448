"""Writing named arrays as the containers of other frameworks."""

import contextlib
import json
from pathlib import Path

import numpy as np
import paddle
import safetensors.numpy
from safetensors import SafetensorError

from ..errors import UserError

SUFFIXES = (".npz", ".safetensors", ".pdparams")


def write_weight_file(arrays, path, belongings=None, names="pt"):
    """Write {name: array} by the suffix of `path`, one of SUFFIXES: the file is whole, or as it was.

    `belongings`, see belongings.py, have a place in the header of .safetensors alone, as has whose `names` these are.

    Raises:
        UserError: another suffix, arrays that the container cannot hold, or a file that cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.part{path.suffix}")  # numpy appends .npz to any other name
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        if path.suffix == ".npz":
            np.savez(unfinished, **arrays)
        elif path.suffix == ".safetensors":
            texts = {name: json.dumps(value) for name, value in (belongings or {}).items()}
            unfinished.write_bytes(safetensors.numpy.save(arrays, metadata={"format": names, **texts}))
        elif path.suffix == ".pdparams":
            paddle.save(arrays, str(unfinished))
        else:
            raise UserError(f"{path}: name it {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    except SafetensorError as error:
        raise UserError(f"cannot write {path}: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
