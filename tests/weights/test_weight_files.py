"""Containers of weights: what is read is what was written, and nothing in a file can run or read what it should not."""

import hashlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from conftest import Payload

from rdrop_paddle import UserError
from rdrop_paddle.durability.checkpoint import save_weights
from rdrop_paddle.weights.files import read_weight_file
from rdrop_paddle.weights.loading import find_weights

torch = pytest.importorskip("torch")

ARRAYS = {"a.weight": np.arange(12, dtype="float32").reshape(3, 4), "a.bias": np.ones(4, "float32")}


def test_the_checksum_is_compared_when_it_is_given_or_lies_beside_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(ARRAYS, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    read_weight_file(path, sha256=digest.upper())
    with pytest.raises(UserError, match=f"sha256 {digest}, expected 0000"):
        read_weight_file(path, sha256="0" * 64)
    beside = tmp_path / "weights.safetensors.sha256"
    beside.write_text(f"{digest}  weights.safetensors\n")
    read_weight_file(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # a flipped value, which safetensors itself does not notice
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"expected {digest}"):
        read_weight_file(path)


def test_a_checksum_file_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(ARRAYS, path)
    (tmp_path / "weights.safetensors.sha256").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot read .*sha256"):
        read_weight_file(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_cut_file_is_an_error(tmp_path, kind, share):
    path = tmp_path / f"weights.{kind}"
    np.savez(path, **ARRAYS) if kind == "npz" else save_weights(ARRAYS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=str(path)):
        read_weight_file(path)


def hostile(kind, path, target):
    payload = Payload(os.mkdir, str(target))
    if kind == "pdparams":
        path.write_bytes(pickle.dumps({"cls_token": np.zeros(3), "x": payload}, protocol=4))
    elif kind == "old pth":
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}, payload)))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))


@pytest.mark.parametrize("kind", ["pdparams", "pth", "old pth"])
def test_a_hostile_file_is_refused_by_name_and_not_run(tmp_path, kind):
    path, target = tmp_path / "weights", tmp_path / "payload"
    hostile(kind, path, target)
    with pytest.raises(UserError, match=r"refused, its pickle asks for posix\.mkdir"):
        read_weight_file(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "arguments",
    [(0, (10**6,), (1,)), (50, (2,), (1,)), (0, (2, 2), (-1, 1)), (-8, (2,), (1,)), (0, (10**9,), (0,)), (0, (2,), (1, 1))],
)
def test_a_tensor_that_leaves_its_storage_is_an_error(tmp_path, arguments):
    """Strides from a hostile file must not make foreign memory readable."""
    path = tmp_path / "weights.pth"
    torch.save({"cls_token": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    folder = next(iter(members)).partition("/")[0]
    forged = {"cls_token": _Forged(arguments)}
    members[f"{folder}/data.pkl"] = _forge(forged)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="damaged"):
        read_weight_file(path)


class _Forged:
    def __init__(self, arguments):
        self.arguments = arguments

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (_PersistentStorage(), *self.arguments, False, {})


class _PersistentStorage:
    pass


def _forge(found):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, _PersistentStorage) else None

    file = io.BytesIO()
    Pickler(file, 2).dump(found)
    return file.getvalue()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "page.html").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="neither .npz, .safetensors, .pth nor .pdparams"):
        read_weight_file(tmp_path / "page.html")
    with pytest.raises(UserError, match="cannot read the weights"):
        read_weight_file(tmp_path / "absent.npz")


def test_a_bare_name_is_looked_up_in_the_data_root(tmp_path):
    (tmp_path / "w.npz").write_text("")
    assert find_weights("w.npz", tmp_path) == tmp_path / "w.npz"
    with pytest.raises(UserError, match="no weights at v.npz, nor in"):
        find_weights("v.npz", tmp_path)
    with pytest.raises(UserError, match="no weights at some/w.npz$"):
        find_weights("some/w.npz", tmp_path)
