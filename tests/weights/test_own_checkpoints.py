"""Checkpoints of people's own training, written by torch itself with all that stands in them beside the weights."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import os
import pathlib
import pickle
import random
import re
import types

import numpy as np
import paddle
import pytest
from conftest import Payload
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rdrop_paddle import UserError
from rdrop_paddle.weights import training_pickle
from rdrop_paddle.weights.files import read_weight_file

torch = pytest.importorskip("torch")


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    folder: pathlib.Path = pathlib.Path("runs/1")


class Attributes(dict):
    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:  # before Python 3.11 pickle asks so for __getstate__
            raise AttributeError(name) from None


class Ordered(collections.OrderedDict):
    pass


class Mode(enum.Enum):
    FAST = "fast"


@pytest.fixture(scope="module")
def training():
    """(a small network, its optimizer after an update)"""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.ones(1, 2)).pow(2).sum().backward()
    optimizer.step()
    return network, optimizer


def schedulers(optimizer):
    schedule = torch.optim.lr_scheduler
    made = [
        schedule.MultiStepLR(optimizer, [1, 2, 2]),
        schedule.OneCycleLR(optimizer, 1, 10),
        schedule.LambdaLR(optimizer, lambda epoch: 1),
        schedule.ReduceLROnPlateau(optimizer),
        schedule.SequentialLR(optimizer, [schedule.ConstantLR(optimizer), schedule.CosineAnnealingLR(optimizer, 3)], [1]),
    ]
    return [one.state_dict() for one in made]


def tagged():
    tensor, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(2))
    tensor.tag = parameter.tag = "x"
    return [tensor, parameter]


BESIDE = {
    "arguments": lambda _: argparse.Namespace(lr=0.1, device=torch.device("cuda", 1), paths=[pathlib.Path("a")]),
    "a counter": lambda _: collections.Counter("abb"),
    "a size": lambda _: torch.Size([2, 3]),
    "a device": lambda _: torch.device("cuda:0"),
    "a type": lambda _: [torch.bfloat16, np.float32, np.dtype("f4"), float, Settings],
    "sets": lambda _: [{1, 2}, frozenset({(1, 2), "a"})],
    "keys of all kinds": lambda _: {(1, "a"): 1, None: 2, 0.5: 3, 2**61 - 1: 4, b"x": 5, frozenset(): 6, -1: 7},
    "a partial": lambda _: functools.partial(print, 1, end=""),
    "methods and functions": lambda training: [training[0].forward, torch.nn.functional.relu, os.getcwd],
    "paths": lambda _: [pathlib.Path("a/b"), pathlib.PureWindowsPath("a")],
    "numbers of numpy": lambda _: [np.float64(0.9), np.int64(3), np.str_("a"), np.bool_(True)],
    "arrays": lambda _: [np.arange(3), np.zeros(0), np.array(["cat", "dog"]), np.array([None]), np.array(["2020"], "M8[D]")],
    "an ordered dictionary's child": lambda _: Ordered(a=torch.ones(2), b=1),
    "a dictionary's child": lambda _: Attributes(a=1, b=Attributes(c=[2])),
    "a default dictionary": lambda _: collections.defaultdict(lambda_free, {"a": [1]}),
    "a deque": lambda _: collections.deque([1, torch.ones(1)], maxlen=3),
    "times": lambda _: [datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(1), datetime.date.today()],
    "exact numbers": lambda _: [decimal.Decimal("0.1"), fractions.Fraction(1, 3), 1j, 10**40],
    "a pattern, a slice, a range, bytes": lambda _: [re.compile("a"), slice(1), range(3), b"\xff", bytearray(b"x"), b""],
    "a data class": lambda _: Settings(),
    "a namespace": lambda _: types.SimpleNamespace(a=1),
    "omegaconf": lambda _: OmegaConf.create({"train": {"lr": 0.1, "milestones": [1, 2]}}),
    "random states": lambda _: [torch.get_rng_state(), np.random.get_state(), random.getstate(), torch.Generator()],
    "versions": lambda _: [torch.__version__, torch.strided],
    "other tensors": lambda _: [
        torch.tensor([1j]),
        torch.tensor([True]),
        torch.zeros(2).to(torch.float8_e4m3fn),
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.nn.Buffer(torch.ones(1)),
        *tagged(),
    ],
    "an optimizer": lambda training: training[1],
    "its state": lambda training: training[1].state_dict(),
    "schedulers": lambda training: schedulers(training[1]),
    "a gradient scaler": lambda _: torch.amp.GradScaler("cpu").state_dict(),
    "the whole network": lambda training: training[0],
}
lambda_free = list  # a factory that pickles


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("kind", BESIDE)
def test_whatever_stands_beside_the_weights_is_left_aside(training, tmp_path, kind, legacy):
    network, _ = training
    beside = BESIDE[kind](training)
    if legacy and kind == "other tensors":
        beside = beside[1:2] + beside[3:]  # the old format cannot tell how long those of unknown types are
    torch.save({"x": beside, "state_dict": network.state_dict()}, tmp_path / "w", _use_new_zipfile_serialization=not legacy)
    found = read_weight_file(tmp_path / "w").arrays
    expected = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_paddles_own_checkpoints_may_hold_other_objects_too(tmp_path):
    layer, args = paddle.nn.Linear(2, 3), argparse.Namespace(lr=0.1, counted=collections.Counter("ab"))
    beside = {"args": args, "set": {1, 2}, (1, 2): 3, "best": np.float64(0.5), "names": np.array(["cat"])}
    paddle.save({"model": layer.state_dict(), **beside}, str(tmp_path / "w.pdparams"))
    found = read_weight_file(tmp_path / "w.pdparams").arrays
    assert found["weight"].tobytes() == layer.weight.numpy().tobytes() and found.keys() == {"weight", "bias"}


@pytest.mark.parametrize("make", [Ordered, Attributes, functools.partial(collections.defaultdict, list)])
def test_a_state_dict_of_a_class_of_its_own_is_read(tmp_path, make):
    torch.save(make({"a.weight": torch.ones(2), "a.bias": torch.nn.Parameter(torch.zeros(3))}), tmp_path / "w.pth")
    assert {name: array.shape for name, array in read_weight_file(tmp_path / "w.pth").arrays.items()} == {
        "a.weight": (2,),
        "a.bias": (3,),
    }


def test_attributes_of_tensors_are_left_aside_and_their_values_kept(tmp_path):
    torch.save(dict(zip("ab", tagged())), tmp_path / "w.pth")
    assert {name: array.tolist() for name, array in read_weight_file(tmp_path / "w.pth").arrays.items()} == {
        "a": [1, 1],
        "b": [1, 1],
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_model_that_was_saved_whole_is_named_with_what_to_do(training, tmp_path, nested, legacy):
    content = {"model": training[0], "args": argparse.Namespace()} if nested else training[0]
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    message = r"holds .* objects, torch\.nn\.modules\.container\.Sequential.*: save the model's state dict alone"
    with pytest.raises(UserError, match=message):
        read_weight_file(tmp_path / "w.pth")


@pytest.mark.parametrize("value, asked", [(Mode.FAST, r"[\w.]*Mode"), (Payload(os.system, "true"), r"posix\.system")])
def test_what_must_be_refused_says_what_to_do_with_a_file_of_ones_own(training, tmp_path, value, asked):
    torch.save({"mode": value, "model": training[0].state_dict()}, tmp_path / "w.pth")
    message = rf"refused, its pickle asks for {asked}; if the file is your own, save its state dict alone$"
    with pytest.raises(UserError, match=message):
        read_weight_file(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["complex64", "float8_e4m3fn"])
def test_a_weight_of_a_type_that_weights_do_not_have_is_named(tmp_path, kind):
    torch.save({"a": torch.ones(2), "b": torch.zeros(2).to(getattr(torch, kind))}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth: b has type torch\..*, which weights do not have"):
        read_weight_file(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["bool", "int8", "int16", "uint8", "int32", "int64"])
@pytest.mark.parametrize("container", ["pth", "safetensors"])
def test_integers_and_booleans_come_through(tmp_path, kind, container):
    safetensors_torch = pytest.importorskip("safetensors.torch")
    state = {"mask": torch.tensor([1, 0, 1]).to(getattr(torch, kind))}
    (torch.save if container == "pth" else safetensors_torch.save_file)(state, tmp_path / "w")
    found = read_weight_file(tmp_path / "w").arrays["mask"]
    assert found.dtype == np.dtype(kind) and found.tolist() == [1, 0, 1]


TUPLES = b"K\x01K\x02\x86" + b"2\x86" * 60  # each is twice the one before: hashing the last takes for ever
HOSTILE = {
    "a call without arguments": (b"\x80\x02cposix\nabort\n)R.", dict),
    "an instance of a function": (b"\x80\x02cposix\nabort\n)\x81.", dict),
    "a state for what a name stands for": (b"\x80\x02cposix\nabort\nN}U\x04nameK\x01s\x86b.", None),
    "an attribute for what a name stands for": (b"\x80\x02cposix\nabort\n}U\x04nameK\x01sb.", None),
    "getattr, which finds nothing": (b"\x80\x02c__builtin__\ngetattr\ncposix\nabort\nU\x05__doc\x86R.", dict),
    "a partial of a call": (b"\x80\x02cfunctools\npartial\ncposix\nabort\n\x85R)R.", None),
    "a key that takes for ever to hash": (b"\x80\x02}(" + TUPLES + b"K\x00u.", dict),
    "a set of such": (b"\x80\x04\x8f(" + TUPLES + b"\x90.", dict),
    "a frozenset of such": (b"\x80\x04(" + TUPLES + b"\x91.", dict),
    "a counter of such": (b"\x80\x02ccollections\nCounter\n}" + TUPLES + b"K\x01s\x85R.", dict),
    "pairs of such": (b"\x80\x02ccollections\nOrderedDict\n](" + TUPLES + b"K\x01\x86e\x85R.", dict),
    "entries of something else": (b"\x80\x02]K\x00K\x01s.", None),
    "objects over bytes of the file's choosing": (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", dict),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_forged_checkpoint_is_inert_or_a_user_error(kind):
    content, gives = HOSTILE[kind]
    if gives is None:
        with pytest.raises(UserError, match="damaged pickle"):
            training_pickle.loads(content, "file", {})
    else:
        found = training_pickle.loads(content, "file", {})
        assert isinstance(found, gives) and not found


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("old_style", [False, True])
def test_a_hostile_checkpoint_is_refused_by_name_and_not_run(tmp_path, protocol, old_style):
    target = tmp_path / "run"
    hostile = pickle.dumps([1, Payload(os.mkdir, str(target))], protocol)
    if old_style:
        hostile = b"(S'" + str(target).encode() + b"'\niposix\nmkdir\n."
    with pytest.raises(UserError, match=r"file: refused, its pickle asks for posix\.mkdir;"):
        training_pickle.loads(hostile, "file", {})
    assert not target.exists()
    pickle.loads(hostile)
    assert target.exists()  # the payload does run where nothing is refused


LONG = b"X\x00\x10\x00\x00" + b"a" * 4096 + b"q\x01"
COPIES = {
    "bytes": LONG + b"c_codecs\nencode\nq\x02" + b"h\x02h\x01U\x06latin1\x86R" * 100,
    "arrays": LONG + b"cnumpy\ndtype\nU\x02u1\x85Rq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
    + b"h\x03)R(K\x01M\x00\x10\x85h\x02\x89h\x01tb" * 100,
    "dictionaries": b"](" + b"U\x01aK\x01\x86" * 1000 + b"eq\x01ccollections\nOrderedDict\nq\x02" + b"h\x02h\x01\x85R" * 100,
    "tuples": b"](" + b"K\x01" * 1000 + b"eq\x01c__builtin__\ntuple\nq\x02" + b"h\x02h\x01\x85R" * 100,
}  # fmt: skip


@pytest.mark.parametrize("kind", COPIES)
def test_a_file_that_asks_for_copies_without_end_is_a_user_error(kind):
    content = b"\x80\x02(" + COPIES[kind] + b"t."
    assert len(content) < 15_000
    with pytest.raises(UserError, match="damaged pickle"):
        training_pickle.loads(content, "file", {})


OPCODES = [
    b"cposix\nabort\n", b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n",
    b"cnumpy._core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n", b"c__builtin__\ntuple\n", b"iposix\nabort\n", b"o",
    b"(", b"t", b")", b"\x85", b"\x86", b"R", b"b", b"}", b"]", b"u", b"s", b"a", b"e", b"d", b"0", b"2", b"K\x04", b"N",
    b"U\x02f4", b"U\x06latin1", b"\x8f", b"\x90", b"\x91", b"\x81", b"\x92", b"q\x01", b"h\x01", b"\x88",
]  # fmt: skip


@given(st.lists(st.sampled_from(OPCODES), max_size=40))
def test_any_program_of_opcodes_ends_in_a_stand_in_or_a_user_error(program):
    try:
        found = training_pickle.loads(b"\x80\x04" + b"".join(program) + b".", "file", {})
    except UserError:
        return
    assert type(found).__module__ in ("builtins", "rdrop_paddle.safe_pickle", "rdrop_paddle.weights.training_pickle")
    assert isinstance(found, (dict, list, tuple, str, int, bytes, type(None))) or type(found).__module__ != "builtins"
