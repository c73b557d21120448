"""Pickles of other people's training: the weights, and beside them whatever a training program keeps.

Arguments, counters, schedulers and objects of any class become `Inert`, entries of dictionaries with keys other than text and
small numbers are left aside unhashed, and nothing runs: see safe_pickle.py. What stays refused is a call of something unknown
with arguments, which is how a hostile file does its work.
"""

import io
import pickle

from ..safe_pickle import NUMPY_ARRAYS, Array, Callable, ElementType, Unpickler, is_key, refusal, run


def load(file, source, allowed, persistent_load=None):
    """The next object pickled in a BytesIO, its arrays as `safe_pickle.Array`.

    Args:
        source: what to call the file in messages.
        allowed: {(module, name): stand-in} for the globals that mean something to the caller, besides arrays and dictionaries.
        persistent_load: what the pickle's persistent ids stand for; without it there may be none.

    Raises:
        UserError: the pickle calls something unknown with arguments, which is then neither imported nor called, or is damaged.
    """
    return run(_TrainingUnpickler(file, source, allowed, persistent_load))


def loads(content, source, allowed):
    """The object pickled in `content` (bytes); see `load`."""
    return load(io.BytesIO(content), source, allowed)


class Inert(dict):
    """Stands for an object that means nothing here; `kind` names its class, if nobody knows that either.

    Of all that a pickle gives it, it keeps what a dictionary would: entries with keys of text and small numbers.
    """

    __slots__ = ("kind",)

    def __init__(self, kind=""):
        super().__init__()
        self.kind = kind

    def __setstate__(self, state):
        """A state is left aside."""

    def append(self, item):
        """Items are left aside."""

    extend = append


class Unknown(Callable):
    """Stands for a class or function that means nothing here: it makes `Inert` objects, and refuses any call with arguments."""

    __slots__ = ("name", "source")

    def __init__(self, name, source):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "source", source)

    def __call__(self, *arguments):
        if arguments:
            raise refusal(self.source, self.name, "if the file is your own, save its state dict alone")
        return Inert(self.name)


class _TrainingUnpickler(Unpickler):
    def __init__(self, file, source, allowed, persistent_load):
        copying = {
            ("_codecs", "encode"): Callable(self._latin1),
            ("collections", "OrderedDict"): Callable(self._entries),
            **{(f"numpy.{core}.multiarray", "_reconstruct"): Callable(self._array) for core in ("core", "_core")},
        }
        super().__init__(file, source, _ARRAYS_AND_TUPLES | copying | _INERT | allowed)
        self._persistent_load = persistent_load
        self._unspent = file.getbuffer().nbytes

    def find_class(self, module, name):
        return self._allowed.get((module, name)) or Unknown(f"{module}.{name}", self.source)

    def persistent_load(self, pid):
        return self._persistent_load(pid) if self._persistent_load else super().persistent_load(pid)

    def _spend(self, count):
        """A file may ask for copies of one value again and again; together they must not be larger than the file."""
        self._unspent -= count
        if self._unspent < 0:
            raise pickle.UnpicklingError("far more than the file holds")

    def _latin1(self, text, encoding):
        """What pickles of protocol 2 write bytes with: `_codecs.encode`, for this one encoding."""
        self._spend(len(text))
        if encoding != "latin1":
            raise ValueError("another encoding")
        return text.encode("latin1")

    def _entries(self, pairs=()):
        """OrderedDict() or, from Python 2, OrderedDict([[key, value], ...])."""
        self._spend(len(pairs))
        entries = Inert()  # it may have a state: torch hangs `_metadata` on its state dicts
        entries.update((key, value) for key, value in pairs if is_key(key))
        return entries

    def _array(self, *_):
        return _AnyArray(self._spend)

    def _set_item(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def _set_items(self):
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def _new_dict(self):
        items = self.pop_mark()
        self.append({})
        self._fill(self.stack[-1], items)

    def _fill(self, entries, items):
        if not isinstance(entries, dict):
            raise pickle.UnpicklingError("entries of something other than a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if is_key(key):
                entries[key] = value

    def _new(self):
        self.stack.pop()  # the arguments
        self.append(Inert(getattr(self.stack.pop(), "name", "")))

    def _new_with_keywords(self):
        self.stack.pop()
        self._new()

    def _instantiate(self, made_of, arguments):  # what Python 2 wrote for classes of the old style
        self.append(made_of(*arguments))

    def _new_set(self):
        self.append(Inert())

    def _new_frozenset(self):
        self.pop_mark()
        self._new_set()

    dispatch = {  # noqa: RUF012 (as in the base class)
        **Unpickler.dispatch,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _new_dict,
        pickle.EMPTY_SET[0]: _new_set,
        pickle.FROZENSET[0]: _new_frozenset,
        pickle.ADDITEMS[0]: pickle._Unpickler.pop_mark,
        pickle.NEWOBJ[0]: _new,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.OBJ[0]: pickle._Unpickler.load_obj,
        pickle.INST[0]: pickle._Unpickler.load_inst,
    }


def _element_type(code, *_):
    try:
        return ElementType(code)
    except (ValueError, TypeError):  # text, dates or objects
        return Inert()


class _AnyArray(Array):
    """Its value stays None where its elements are no numbers."""

    __slots__ = ("_spend",)

    def __init__(self, spend):
        super().__init__()
        self._spend = spend

    def __setstate__(self, state):
        _, _, kind, _, content = state
        self._spend(len(content) if isinstance(content, str) else 0)  # bytes are not copied
        if isinstance(kind, ElementType):
            super().__setstate__(state)


def tuple_of(values):
    """A tuple, which is all that anybody makes one of."""
    if type(values) is not tuple:
        raise ValueError("a tuple of something else")
    return values


_ARRAYS_AND_TUPLES = NUMPY_ARRAYS | {
    ("numpy", "dtype"): Callable(_element_type),
    **{(module, "tuple"): Callable(tuple_of) for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): Callable(lambda: b"") for module in ("builtins", "__builtin__")},  # others are encoded text
    ("torch", "Size"): Callable(tuple_of),
}
_INERT = {  # what is built by calls with arguments
    (module, name): Callable(lambda *_: Inert())
    for modules, names in {
        "builtins __builtin__": "set frozenset complex slice range xrange bytearray getattr",  # getattr: of methods
        "collections": "Counter defaultdict deque",
        "copyreg copy_reg": "_reconstructor",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "functools": "partial",
        "numpy._core.multiarray numpy.core.multiarray": "scalar",
        "numpy._core.numeric numpy.core.numeric": "_frombuffer",
        "pathlib pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
        "re": "_compile",
        "torch": "device",
        "torch._C": "Generator",
        "torch._utils": "_rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_qtensor _rebuild_sparse_tensor",
        "torch.serialization": "_get_layout",
    }.items()
    for module in modules.split()
    for name in names.split()
}
