"""Reading pickles from elsewhere: they can build plain values and arrays of numbers, and nothing hidden can run.

Every global that a pickle may ask for is a stand-in of this project without settable attributes; no class or function of numpy
or torch is ever handed to it, because a pickle may call them with arguments of its own making. Only text and
small numbers may be a dictionary's keys: hashing a few nested tuples can take for ever.
"""

import io
import pickle
import re

import numpy as np

from .errors import UserError


class Callable:
    """What a pickle gets for a global: it can be called, and nothing about it can be changed."""

    __slots__ = ("_make",)

    def __init__(self, make):
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments):
        return self._make(*arguments)

    def __setattr__(self, name, value):
        raise AttributeError(name)


class ElementType:
    """An element type: a number of 1 to 8 bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code, *_):
        if not re.fullmatch(r"[<>|=]?[fiub][1248]", code):
            raise ValueError("an array of something other than numbers")
        self.code, self.order = code.lstrip("<>|="), "<"

    def __setstate__(self, state):
        self.order = ">" if state[1] == ">" else "<"

    @property
    def dtype(self):
        return np.dtype(self.order + self.code)


class Array:
    """An array in a pickle; `value` is the numpy array, once its content has been read."""

    __slots__ = ("value",)

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state):
        _, shape, kind, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content  # text: written by Python 2
        if not isinstance(kind, ElementType):
            raise ValueError("an array without a type")
        self.value = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if fortran else "C")


NUMPY_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): Callable(Array),
    ("numpy._core.multiarray", "_reconstruct"): Callable(Array),
    ("numpy", "ndarray"): "ndarray",  # only named as an argument of _reconstruct
    ("numpy", "dtype"): Callable(ElementType),
}


def loads(content, source, allowed):
    """The object pickled in `content` (bytes); see `load`."""
    return load(io.BytesIO(content), source, allowed)


def load(file, source, allowed):
    """The next object pickled in a BytesIO, its arrays as `Array`; byte strings of Python 2 become latin-1 text.

    Args:
        source: what to call the file in messages.
        allowed: {(module, name): stand-in} for every global that the pickle may use.

    Raises:
        UserError: the pickle asks for anything else, which is then neither imported nor called, or is damaged.
    """
    return run(Unpickler(file, source, allowed))


def run(unpickler):
    """The next object of an `Unpickler`, whose errors become UserErrors."""
    try:
        return unpickler.load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything; its text could hold anything, too
        raise UserError(f"{unpickler.source}: damaged pickle ({type(error).__name__})") from None


class Unpickler(pickle._Unpickler):  # the one in Python: the one in C can neither check keys nor bound its memo
    def __init__(self, file, source, allowed):
        super().__init__(file, encoding="latin1")
        self.source = source
        self._allowed = allowed

    def find_class(self, module, name):
        if (module, name) not in self._allowed:
            raise refusal(self.source, f"{module}.{name}", "get it from its official address")
        return self._allowed[module, name]

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("unexpected persistent id")

    def _set_item(self):
        _key(self.stack[-2])
        pickle._Unpickler.load_setitem(self)

    def _set_items(self):
        for key in self.stack[::2]:
            _key(key)
        pickle._Unpickler.load_setitems(self)

    def _new_dict(self):
        for key in self.stack[::2]:
            _key(key)
        pickle._Unpickler.load_dict(self)

    def _refuse(self):
        raise pickle.UnpicklingError("a set, or an instance of a class")

    dispatch = {  # noqa: RUF012 (as in the base class)
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _new_dict,
        **dict.fromkeys((pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), _refuse),
        **dict.fromkeys((pickle.INST[0], pickle.OBJ[0], pickle.NEWOBJ[0], pickle.NEWOBJ_EX[0]), _refuse),
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), _refuse),
    }


def refusal(source, asked, advice):
    """A UserError that names the global a pickle asks for."""
    asked = asked[:80].replace("\n", " ")
    return UserError(f"{source}: refused, its pickle asks for {asked}; {advice}")


def is_key(key):
    """A key of a dictionary: text, or the number by which torch's optimizers know a parameter; their hashes do not collide."""
    return isinstance(key, str) or (type(key) is int and 0 <= key < 2**31)


def _key(key):
    if not is_key(key):
        raise pickle.UnpicklingError("a key that is neither text nor a small number")
    return key
