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
    """The object pickled in `content` (bytes); byte strings of Python 2 become latin-1 text.

    Args:
        source: what to call the content in messages.
        allowed: {(module, name): object} for every global that the pickle may use.

    Raises:
        UserError: the pickle asks for anything else, which is then neither imported nor called, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(content), source, allowed).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{source}: damaged pickle ({type(error).__name__}: {error})") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, source, allowed):
        super().__init__(file, encoding="latin1")
        self._source = source
        self._allowed = allowed

    def find_class(self, module, name):
        if (module, name) not in self._allowed:
            raise UserError(f"{self._source}: refused, its pickle asks for {module}.{name}; get it from its official address")
        return self._allowed[module, name]
