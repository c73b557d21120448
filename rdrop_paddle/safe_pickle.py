"""Reading pickles from elsewhere: only the callables that are named may be asked for, so nothing hidden can run."""

import io
import pickle

import numpy as np

from .errors import UserError

_reconstruct = np.zeros(0).__reduce__()[0]  # lives in numpy.core or numpy._core, by numpy's version
NUMPY_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def loads(content, source, allowed):
    """The object pickled in `content` (bytes); see `load`."""
    return load(io.BytesIO(content), source, allowed)


def load(file, source, allowed, persistent_load=None):
    """The next object pickled in an open binary file; byte strings of Python 2 become latin-1 text.

    Args:
        source: what to call the file in messages.
        allowed: {(module, name): object} for every global that the pickle may use.
        persistent_load: what the pickle's persistent ids stand for; without it there may be none.

    Raises:
        UserError: the pickle asks for anything else, which is then neither imported nor called, or is damaged.
    """
    try:
        return _Unpickler(file, source, allowed, persistent_load).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{source}: damaged pickle ({type(error).__name__}: {error})") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, source, allowed, persistent_load):
        super().__init__(file, encoding="latin1")
        self._source = source
        self._allowed = allowed
        self._persistent_load = persistent_load

    def find_class(self, module, name):
        if (module, name) not in self._allowed:
            raise UserError(f"{self._source}: refused, its pickle asks for {module}.{name}; get it from its official address")
        return self._allowed[module, name]

    def persistent_load(self, pid):
        if self._persistent_load is None:
            raise pickle.UnpicklingError("unexpected persistent id")
        return self._persistent_load(pid)
