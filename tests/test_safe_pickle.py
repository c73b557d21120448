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
