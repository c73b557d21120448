"""Every naming scheme and wrapper that ViTs come in gives the same model."""

import json

import numpy as np
import paddle
import pytest
from foreign_vits import (
    behind,
    big_vision_state,
    deit_of_transformers,
    deit_state,
    distinct,
    google_state,
    huggingface,
    timm_state,
    tiny_vit,
    torchvision_state,
    vit_pytorch_state,
)

from rdrop_paddle import UserError, build_model, load_weights
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.vision.weight_formats import read_weights, write_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture
def model(tiny_config):
    """The tiny ViT with weights that are all different."""
    return distinct(build_model(tiny_config().model))


def assert_loads(model, path, **settings):
    """The file gives the model's weights, to the bit; returns the report."""
    other = tiny_vit()
    report = load_weights(other, path, **settings)
    expected, found = model_arrays(model), model_arrays(other)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    return report


def lightning(model, root="model."):
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "state_dict": behind(root, timm_state(model)),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "hyper_parameters": transformers.PretrainedConfig(lr=0.1),
        "loops": {"fit_loop": {"state_dict": {}}},
    }


def averaged(model):
    """As torch.optim.swa_utils.AveragedModel names its tensors."""
    network = torch.nn.Linear(1, 1)
    (count,) = [name for name in torch.optim.swa_utils.AveragedModel(network).state_dict() if "module" not in name]
    return behind("module.", timm_state(model)) | {count: torch.tensor(7)}


def head_outside(model):
    """A user's own module: a timm ViT as its backbone, without a head, and a head of its own."""
    return {name if name.startswith("head.") else f"backbone.{name}": tensor for name, tensor in timm_state(model).items()}


def compiled_blocks(model):
    return {name.replace("blocks.1.", "blocks.1._orig_mod."): tensor for name, tensor in timm_state(model).items()}


FILES = {
    "ViT-pytorch": (vit_pytorch_state, "ViT-pytorch .bin"),
    "ViT-pytorch, DataParallel": (
        lambda m: behind("module.", vit_pytorch_state(m)),
        "ViT-pytorch .bin, prefix module. removed",
    ),
    "timm, compiled": (lambda m: behind("_orig_mod.", timm_state(m)), "timm .pth, prefix _orig_mod. removed"),
    "timm, compiled in DataParallel": (
        lambda m: behind("module._orig_mod.", timm_state(m)),
        "timm .pth, prefix module._orig_mod. removed",
    ),
    "timm, blocks compiled": (compiled_blocks, "timm .pth"),
    "timm, Lightning": (lightning, "timm .pth, prefix model. removed"),
    "timm, Lightning under another name": (lambda m: lightning(m, "net.vit."), "timm .pth, prefix net.vit. removed"),
    "transformers, Lightning": (
        lambda m: {"state_dict": behind("model.", huggingface(m).state_dict())},
        "Hugging Face transformers .bin, prefix model. removed",
    ),
    "timm, backbone": (lambda m: behind("backbone.", timm_state(m)), "timm .pth, prefix backbone. removed"),
    "timm, backbone and a head outside": (head_outside, "timm .pth, prefix backbone. removed"),
    "timm, backbone and a head outside, DataParallel": (
        lambda m: behind("module.", head_outside(m)),
        "timm .pth, prefix module.backbone. removed",
    ),
    "timm, AveragedModel": (averaged, "timm .pth, prefix module. removed, an average of 7"),
    "torchvision": (torchvision_state, "torchvision .pth"),
    "torchvision, new": (lambda m: torchvision_state(m, layers="03"), "torchvision .pth"),
    "torchvision, DataParallel": (
        lambda m: behind("module.", torchvision_state(m)),
        "torchvision .pth, prefix module. removed",
    ),
    "DeiT of transformers": (deit_state, "Hugging Face transformers .bin"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_torch_file_of_other_names_gives_the_same_weights(model, tmp_path, kind):
    state, label = FILES[kind]
    torch.save(state(model), tmp_path / "w")
    assert assert_loads(model, tmp_path / "w").format == label


def test_the_suffix_in_the_report_is_the_containers(model, tmp_path):
    safetensors_torch.save_file(behind("module.", torchvision_state(model)), tmp_path / "w")
    assert assert_loads(model, tmp_path / "w").format == "torchvision .safetensors, prefix module. removed"


NPZ = {
    "opt/target/": (
        google_state,
        {"opt/state/step": np.int64(3), "opt/state/param_states/cls/grad_ema": np.ones(3)},
        "Google .npz",
    ),
    "params/": (big_vision_state, {"opt/0/mu/embedding/kernel": np.ones(3), "chrono/steps": np.int64(3)}, "big_vision .npz"),
    "": (big_vision_state, {}, "big_vision .npz"),
}


@pytest.mark.parametrize("prefix", NPZ)
def test_a_jax_programs_npz_gives_the_model_and_leaves_the_optimizer(model, tmp_path, prefix):
    state, beside, label = NPZ[prefix]
    np.savez(tmp_path / "w.npz", **behind(prefix, state(model)), **beside)
    report = assert_loads(model, tmp_path / "w.npz")
    assert report.format == label + (f", prefix {prefix} removed" if prefix else "")
    write_weights(read_weights(tmp_path / "w.npz"), tmp_path / "again.npz")
    assert assert_loads(model, tmp_path / "again.npz").format == "Google .npz"


def test_a_class_token_without_a_position_gets_zeros_and_a_row(model, tmp_path):
    np.savez(tmp_path / "w.npz", **big_vision_state(model))
    (row,) = [row for row in assert_loads(model, tmp_path / "w.npz").rows if row.name == "pos_embed"]
    assert row == ("pos_embed", "reshaped", "pos_embedding, zeros for the class token before it, [1, 5, 16]")
    assert not model.pos_embed.numpy()[0, 0].any() and model.pos_embed.numpy()[0, 1].all()


def test_a_vit_without_a_class_token_is_refused_by_its_name(model, tmp_path):
    arrays = big_vision_state(model)
    del arrays["cls"]
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(UserError, match=r"big_vision .npz\) does not fit the model: cls_token missing"):
        load_weights(model, tmp_path / "w.npz")


def test_bfloat16_of_jax_is_read(model, tmp_path):
    arrays = google_state(model)
    bits = {name: (array.view("u4") >> 16).astype("u2") for name, array in arrays.items()}
    np.savez(tmp_path / "w.npz", **{name: array.view("V2") for name, array in bits.items()})
    other = tiny_vit()
    load_weights(other, tmp_path / "w.npz")
    np.testing.assert_array_equal(other.head.bias.numpy().view("u4"), bits["head/bias"].astype("u4") << 16)


def test_torchs_attention_with_torchvisions_tensors_and_this_models_give_the_same(model, tmp_path):
    """torch.nn.MultiheadAttention, which torchvision's ViT consists of, fixes the order of query, key and value."""
    torch.save(torchvision_state(model), tmp_path / "w.pth")
    other = tiny_vit()
    load_weights(other, tmp_path / "w.pth")
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    start = "encoder.layers.encoder_layer_1.self_attention."
    state = torchvision_state(model).items()
    attention.load_state_dict({name.removeprefix(start): tensor for name, tensor in state if name.startswith(start)})
    tokens = np.random.default_rng(0).normal(size=[2, 5, 16]).astype("float32")
    with torch.no_grad():
        expected, _ = attention(*[torch.from_numpy(tokens)] * 3)
    np.testing.assert_allclose(other.blocks[1].attn(paddle.to_tensor(tokens)).numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "state, token",
    [
        (lambda _: deit_of_transformers().state_dict(), r"deit\.embeddings\.distillation_token"),
        (lambda m: behind("module.", timm_state(m) | {"dist_token": torch.zeros(1, 1, 16)}), "dist_token"),
    ],
)
def test_a_distillation_token_is_refused_by_its_name(model, tmp_path, state, token):
    torch.save(state(model), tmp_path / "w.bin")
    for read in (read_weights, lambda path: load_weights(model, path, strict=False)):
        with pytest.raises(UserError, match=f"w.bin: {token} is a second class token, which this ViT has not"):
            read(tmp_path / "w.bin")


def average_of(model):
    """Another model, whose weights stand for the average."""
    average = tiny_vit()
    for name, parameter in average.named_parameters():
        parameter.set_value(model.state_dict()[name].numpy() * np.float32(0.5) + np.float32(1))
    return average


def timm_saver(model, average):
    return {
        "epoch": 3,
        "arch": "vit_tiny",
        "state_dict": timm_state(model),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        "version": 2,
        "amp_scaler": torch.amp.GradScaler("cpu").state_dict(),
        "state_dict_ema": timm_state(average),
        "metric": np.float64(81.5),
    }


WITH_AVERAGE = {
    "timm's saver": (timm_saver, "state_dict_ema"),
    "model_ema": (lambda m, a: {"model": vit_pytorch_state(m), "model_ema": vit_pytorch_state(a), "epoch": 3}, "model_ema"),
    "torchvision's training": (
        lambda m, a: {"model": behind("module.", torchvision_state(m)), "model_ema": averaged_vision(a), "optimizer": {}},
        "model_ema",
    ),
    "Lightning, in one dictionary": (
        lambda m, a: {"state_dict": behind("model.", timm_state(m)) | behind("ema_model.", averaged(a))},
        "ema_model.module",
    ),
}


def averaged_vision(model):
    return behind("module.module.", torchvision_state(model)) | {"n_averaged": torch.tensor(2)}


@pytest.mark.parametrize("kind", WITH_AVERAGE)
def test_an_average_beside_the_weights_is_taken_on_demand_and_said_otherwise(model, tmp_path, kind):
    content, name = WITH_AVERAGE[kind]
    average = average_of(model)
    torch.save(content(model, average), tmp_path / "w.pth")
    assert f"the average {name} left aside, --ema takes it" in assert_loads(model, tmp_path / "w.pth").format
    report = assert_loads(average, tmp_path / "w.pth", ema=True)
    assert f"the average {name}" in report.format and "left aside" not in report.format
    converted = tmp_path / "average.safetensors"
    write_weights(read_weights(tmp_path / "w.pth", ema=True), converted)
    assert_loads(average, converted)


def test_an_average_alone_is_read_and_called_so(model, tmp_path):
    torch.save({"state_dict_ema": timm_state(model)}, tmp_path / "w.pth")
    for ema in (False, True):
        assert assert_loads(model, tmp_path / "w.pth", ema=ema).format == "timm .pth, the average state_dict_ema"


@pytest.mark.parametrize("kind", ["plain", "AveragedModel"])
def test_an_average_that_is_not_there_is_a_user_error(model, tmp_path, kind):
    torch.save(timm_state(model) if kind == "plain" else averaged(model), tmp_path / "w.pth")
    if kind == "plain":
        with pytest.raises(UserError, match=r"w.pth: holds no average of the weights \(EMA\): leave --ema out"):
            load_weights(model, tmp_path / "w.pth", ema=True)
    else:
        assert_loads(model, tmp_path / "w.pth", ema=True)  # it is nothing else


def test_a_checkpoints_folder_gives_the_weights_or_their_average(model, tmp_path):
    average = average_of(model)
    save_weights(model_arrays(model), tmp_path / "model.safetensors", holds="model")
    save_weights(model_arrays(average), tmp_path / "ema.safetensors", holds="ema")
    report = assert_loads(model, tmp_path)
    assert report.format == "rdrop_paddle .safetensors, the average ema.safetensors left aside, --ema takes it"
    assert assert_loads(average, tmp_path, ema=True).format == "rdrop_paddle .safetensors, an average of the weights"


def test_two_models_in_one_dictionary_are_an_error(model, tmp_path):
    torch.save(behind("student.backbone.", timm_state(model)) | behind("teacher.backbone.", timm_state(model)), tmp_path / "w")
    with pytest.raises(UserError, match=r"holds models under student\.backbone\. and teacher\.backbone\.; save"):
        load_weights(model, tmp_path / "w")


def test_two_tensors_of_one_name_without_their_prefixes_are_an_error(model, tmp_path):
    state = behind("module.", timm_state(model)) | {"head.bias": torch.ones(10)}
    torch.save(state, tmp_path / "w")
    with pytest.raises(UserError, match=r"two tensors are called head.bias"):
        load_weights(model, tmp_path / "w")


def test_what_lies_outside_of_the_model_is_never_dropped_without_a_word(model, tmp_path):
    state = behind("model.", timm_state(model)) | {"loss.weight": torch.ones(10)}
    torch.save({"state_dict": state}, tmp_path / "w")
    with pytest.raises(UserError, match=r"loss.weight unexpected"):
        load_weights(model, tmp_path / "w")


@pytest.fixture
def sharded(model, tmp_path):
    """sharded("bin") -> the folder of a sharded Hugging Face model, one that transformers wrote for "safetensors"."""

    def write(kind):
        folder = tmp_path / kind
        foreign = huggingface(model)
        if kind == "safetensors":
            foreign.save_pretrained(folder, max_shard_size="4KB")
            return folder
        folder.mkdir()
        state = list(foreign.state_dict().items())
        places = {}
        for number, names in enumerate((state[:10], state[10:]), start=1):
            shard = f"pytorch_model-{number:05}-of-00002.bin"
            torch.save(dict(names), folder / shard)
            places |= {name: shard for name, _ in names}
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return folder

    return write


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_sharded_folder_and_its_index_give_the_same_weights(model, sharded, kind):
    folder = sharded(kind)
    count = len(list(folder.glob(f"*.{kind}")))
    assert count > 1
    (index,) = folder.glob("*.index.json")
    reports = [assert_loads(model, path) for path in (folder, index)]
    assert {report.format for report in reports} == {f"Hugging Face transformers .{kind}, {count} shards"}


def test_a_whole_file_in_a_folder_is_found(model, tmp_path):
    huggingface(model).save_pretrained(tmp_path / "one")
    assert assert_loads(model, tmp_path / "one").format == "Hugging Face transformers .safetensors"
    torch.save(huggingface(model).state_dict(), tmp_path / "pytorch_model.bin")
    assert assert_loads(model, tmp_path).format == "Hugging Face transformers .bin"
