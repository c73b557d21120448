import os
import pickle

import numpy as np
import pytest
from conftest import Payload
from hypothesis import given
from hypothesis import strategies as st

from rdrop_paddle import UserError
from rdrop_paddle.safe_pickle import NUMPY_ARRAYS, loads


def test_numpy_arrays_come_through():
    array = np.arange(12, dtype="float32").reshape(3, 4)
    found = loads(pickle.dumps({"data": array, "labels": [1, 2]}), "file", NUMPY_ARRAYS)
    np.testing.assert_array_equal(found["data"].value, array)
    assert found["labels"] == [1, 2]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path, protocol):
    target = tmp_path / "run"
    hostile = pickle.dumps([1, Payload(os.mkdir, str(target))], protocol)
    with pytest.raises(UserError, match=r"file: refused, its pickle asks for posix\.mkdir;"):
        loads(hostile, "file", NUMPY_ARRAYS)
    assert not target.exists()
    pickle.loads(hostile)
    assert target.exists()  # the payload does run where nothing is refused


@pytest.mark.parametrize("function", [eval, np.load, np.ndarray.tofile, getattr])
def test_nothing_else_is_allowed_not_even_from_numpy(function):
    with pytest.raises(UserError, match="refused"):
        loads(pickle.dumps(Payload(function, "x")), "file", NUMPY_ARRAYS)


@given(st.binary(max_size=200))
def test_garbage_is_a_user_error_or_a_value(content):
    try:
        loads(content, "file", NUMPY_ARRAYS)
    except UserError as error:
        assert "file" in str(error)


OBJECTS = b"\x80\x02cnumpy\nndarray\n(K\x04\x85cnumpy\ndtype\nU\x01O\x85RU " + b"A" * 32 + b"tR."
BOMB = b"\x80\x02}(" + b"K\x01K\x02\x86" + b"2\x86" * 60 + b"K\x00u."  # 60 tuples of twice the one before, as a key
FORGED = {
    "an array of objects over bytes of the file's choosing": OBJECTS,
    "an array whose content was never given": b"\x80\x02cnumpy\nndarray\n(K\x04\x85tR.",
    "a dictionary key that takes for ever to hash": BOMB,
    "a set": b"\x80\x04\x8f.",
    "a state for a stand-in": b"\x80\x02cnumpy\ndtype\n}U\x01xK\x01sb.",
    "a slot state for a stand-in": b"\x80\x02cnumpy\ndtype\nN}U\x05_makeK\x01s\x86b.",
    "a state for a marker": b"\x80\x02cnumpy\nndarray\n}U\x01xK\x01sb.",
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_pickle_is_a_user_error_and_leaves_nothing_behind(kind):
    with pytest.raises(UserError, match="damaged pickle"):
        loads(FORGED[kind], "file", NUMPY_ARRAYS)
    array = np.arange(3.0)
    np.testing.assert_array_equal(loads(pickle.dumps(array), "file", NUMPY_ARRAYS).value, array)


def test_a_memo_index_costs_nothing():
    assert loads(b"\x80\x02K\x05r\xff\xff\xff\x1f.", "file", {}) == 5  # the unpickler in C would make room for 2**29


@pytest.mark.parametrize("kind", [">f4", "<f8", "|u1", "<i8", "|b1"])
def test_every_number_type_and_order_comes_through(kind):
    array = np.asfortranarray(np.arange(12).reshape(3, 4).astype(kind))
    for protocol in range(2, 5):
        allowed = NUMPY_ARRAYS | {("_codecs", "encode"): lambda text, _: text.encode("latin1")}
        found = loads(pickle.dumps(array, protocol), "file", allowed).value
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


ALLOWED_OPCODES = [
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy._core.multiarray\n_reconstruct\n", b"(", b"t", b")", b"\x85", b"\x86",
    b"R", b"b", b"}", b"]", b"u", b"s", b"a", b"e", b"0", b"2", b"K\x04", b"N", b"U\x02f4", b"U\x01O", b"U\x01b", b"U\x04abcd",
    b"q\x01", b"h\x01", b"\x88",
]  # fmt: skip


@given(st.lists(st.sampled_from(ALLOWED_OPCODES), max_size=40))
def test_any_program_of_allowed_opcodes_ends_in_a_value_or_a_user_error(program):
    try:
        found = loads(b"\x80\x02" + b"".join(program) + b".", "file", NUMPY_ARRAYS)
    except UserError:
        return
    assert type(found).__module__ in ("builtins", "rdrop_paddle.safe_pickle")
