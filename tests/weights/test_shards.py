"""A model in several files with an index: whole, or a UserError that names the file."""

import hashlib
import json

import numpy as np
import pytest

from rdrop_paddle import UserError
from rdrop_paddle.durability.checkpoint import save_weights
from rdrop_paddle.weights.files import read_weight_file

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """Two shards of two tensors each, and their index."""
    places = {}
    for number in (1, 2):
        shard = f"model-0000{number}-of-00002.safetensors"
        arrays = {f"layer{number}.{kind}": np.full(3, number, "float32") for kind in ("weight", "bias")}
        save_weights(arrays, tmp_path / shard)
        places |= dict.fromkeys(arrays, shard)
    write_index(tmp_path, places)
    return tmp_path


def write_index(folder, places):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": places}, indent=2))


def places_of(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def test_all_tensors_of_all_shards_are_read(folder):
    for path in (folder, folder / INDEX):
        file = read_weight_file(path)
        assert {name: array[0] for name, array in file.arrays.items()} == {
            "layer1.weight": 1,
            "layer1.bias": 1,
            "layer2.weight": 2,
            "layer2.bias": 2,
        }
        assert file.container == "safetensors" and file.notes == ["2 shards"]


def test_their_checksum_is_that_of_what_sha256sum_prints(folder):
    names = [INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert read_weight_file(folder, digest).sha256 == digest
    with pytest.raises(UserError, match=f"{INDEX}: sha256 {digest}, expected 0000"):
        read_weight_file(folder, "0" * 64)
    (folder / f"{names[2]}.sha256").write_text("0" * 64)
    with pytest.raises(UserError, match=f"{names[2]}: sha256 .*, expected 0000"):
        read_weight_file(folder)


def absent_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def absent_tensor(folder):
    write_index(folder, places_of(folder) | {"layer3.weight": "model-00002-of-00002.safetensors"})


def tensor_twice(folder):
    save_weights({"layer1.bias": np.ones(3, "float32")}, folder / "model-00002-of-00002.safetensors")


def shard_elsewhere(folder):
    write_index(folder, dict.fromkeys(places_of(folder), "../w.safetensors"))


def index_in_index(folder):
    write_index(folder, dict.fromkeys(places_of(folder), INDEX))


def other_json(folder):
    (folder / INDEX).write_text('{"model_type": "vit"}')


def no_places(folder):
    write_index(folder, {})


def deep_json(folder):
    (folder / INDEX).write_text('{"weight_map": ' + "[" * 100_000)


@pytest.mark.parametrize(
    "damage, message",
    [
        (absent_shard, "cannot read the weights .*model-00002-of-00002.safetensors: No such file"),
        (absent_tensor, "index.json: layer3.weight is in none of its 2 shards"),
        (tensor_twice, "model-00002-of-00002.safetensors: layer1.bias is in another shard, too"),
        (shard_elsewhere, "index.json: neither weights nor an index of shards in its folder"),
        (index_in_index, "index.json: neither .npz, .safetensors, .pth nor .pdparams"),
        (other_json, "index.json: neither weights nor an index"),
        (no_places, "index.json: neither weights nor an index"),
        (deep_json, "index.json: neither weights nor an index"),
    ],
)
def test_what_is_not_whole_is_a_user_error(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        read_weight_file(folder)


def test_a_folder_without_weights_says_what_it_looks_for(tmp_path):
    with pytest.raises(UserError, match=r"no weights in the folder .*: it has none of model.safetensors, .*best.safetensors$"):
        read_weight_file(tmp_path)


def test_a_header_that_is_as_long_as_a_brace_says_is_no_index(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(ord("{"))
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + np.float32(5).tobytes())
    assert read_weight_file(tmp_path / "w").arrays["a"].tolist() == [5]
