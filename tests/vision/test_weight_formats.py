"""Every released format, in files that the foreign library itself has written, gives the same model."""

import hashlib
import pickle

import numpy as np
import paddle
import pytest
from conftest import google_arrays
from foreign_vits import distinct, huggingface, timm_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdrop_paddle import UserError, build_model, load_weights
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.vision.weight_formats import read_weights, write_weights
from rdrop_paddle.weights.loading import SourceWeights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture
def model(tiny_config):
    """The tiny ViT with weights that are all different."""
    return distinct(build_model(tiny_config().model))


def paddle_with_prefix(model, path):
    paddle.save({f"_layers.{name}": tensor for name, tensor in model.state_dict().items()}, str(path))


def google_file(model, path):
    arrays = {}
    for name, parameter in model.named_parameters():
        arrays |= google_arrays(name, parameter.numpy(), model)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def torch_adam(model):
    """The state of a torch optimizer after an update, which knows parameters by their numbers."""
    parameters = [torch.nn.Parameter(tensor) for tensor in timm_state(model).values()]
    optimizer = torch.optim.Adam(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    return optimizer.state_dict()


def paddle_adam(model):
    """The state of a Paddle optimizer after an update: four tensors for each of the model's."""
    parameters = [paddle.to_tensor(parameter.numpy(), stop_gradient=False) for parameter in model.parameters()]
    optimizer = paddle.optimizer.Adam(parameters=parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    return optimizer.state_dict()


WRITERS = {
    "Google .npz": google_file,
    "timm .safetensors": lambda model, path: safetensors_torch.save_file(timm_state(model), path),
    "timm .pth": lambda model, path: torch.save(timm_state(model), path),
    "timm .pth, nested": lambda model, path: torch.save({"model": timm_state(model), "epoch": 3}, path),
    "timm .pth, beside its optimizer": lambda model, path: torch.save(
        {"state_dict": {f"module.{n}": t for n, t in timm_state(model).items()}, "optimizer": torch_adam(model)}, path
    ),
    "timm .pth, parameters": lambda model, path: torch.save(
        {name: torch.nn.Parameter(tensor) for name, tensor in timm_state(model).items()}, path
    ),
    "timm .pth, DataParallel": lambda model, path: torch.save({f"module.{n}": t for n, t in timm_state(model).items()}, path),
    "timm .pth, before torch 1.6": lambda model, path: torch.save(
        timm_state(model), path, _use_new_zipfile_serialization=False
    ),
    "transformers .safetensors": lambda model, path: (
        huggingface(model).save_pretrained(path.parent),
        (path.parent / "model.safetensors").rename(path),
    ),
    "transformers .bin, a module's own names": lambda model, path: torch.save(huggingface(model).state_dict(), path),
    "PaddleClas .pdparams, beside its optimizer": lambda model, path: paddle.save(
        {"model": model.state_dict(), "optimizer": paddle_adam(model)}, str(path)
    ),
    "PaddleClas .pdparams": lambda model, path: paddle.save(model.state_dict(), str(path)),
    "PaddleClas .pdparams, protocol 2": lambda model, path: paddle.save(model.state_dict(), str(path), protocol=2),
    "PaddleClas .pdparams, nested": lambda model, path: paddle.save({"state_dict": model.state_dict(), "epoch": 1}, str(path)),
    "AI Studio .pdparams, DataParallel": paddle_with_prefix,
    "own .safetensors": lambda model, path: save_weights(model_arrays(model), path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_the_foreign_library_gives_the_same_weights(model, tiny_config, tmp_path, kind):
    path = tmp_path / "weights"  # no suffix: the content decides
    WRITERS[kind](model, path)
    other = build_model(tiny_config().model)
    report = load_weights(other, path)
    expected, found = model_arrays(model), model_arrays(other)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and report.sha256 in str(report)
    assert {row.name for row in report.rows} == set(expected)
    if "timm" in kind or "transformers" in kind:
        linear = [name for name, array in expected.items() if array.ndim == 2]
        assert sorted(report.names("transposed") + report.names("fused")) == sorted(
            linear if "timm" in kind else {*linear, *(n for n in expected if ".qkv." in n)}
        )


def test_transformers_and_this_model_give_the_same_logits(model):
    images = np.random.default_rng(0).uniform(-1, 1, [4, 3, 8, 8]).astype("float32")
    model.eval()
    with torch.no_grad():
        expected = huggingface(model)(torch.from_numpy(images)).logits.numpy()
    np.testing.assert_allclose(model(paddle.to_tensor(images)).numpy(), expected, atol=1e-5)


def test_ai_studios_weights_without_attention_biases_load_into_their_architecture(tiny_config, tmp_path):
    """As cifar100-224_checkpoint.pdparams: saved from a wrapper, no query, key and value biases."""
    config = tiny_config("model.qkv_bias=false", "model.epsilon=1e-5").model
    released, path = build_model(config), tmp_path / "cifar100-224_checkpoint.pdparams"
    paddle_with_prefix(released, path)
    report = load_weights(build_model(config), path)
    assert report.format == "PaddleClas .pdparams, prefix _layers. removed"
    with pytest.raises(UserError, match="blocks.0.attn.qkv.bias missing"):
        load_weights(build_model(tiny_config().model), path)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_loaded_as_float32(model, tiny_config, tmp_path, kind):
    state = {name: tensor.to(getattr(torch, kind)) for name, tensor in timm_state(model).items()}
    torch.save(state, tmp_path / "weights.pth")
    safetensors_torch.save_file(state, tmp_path / "weights.safetensors")
    rounded = {name: tensor.to(torch.float32).numpy() for name, tensor in state.items()}
    for name in ("weights.pth", "weights.safetensors"):
        other = build_model(tiny_config().model)
        load_weights(other, tmp_path / name)
        np.testing.assert_array_equal(other.norm.weight.numpy(), rounded["norm.weight"])
        np.testing.assert_array_equal(other.head.weight.numpy(), rounded["head.weight"].T)


def test_views_of_a_shared_storage_are_read_as_the_views_they_are(model, tiny_config, tmp_path):
    state = timm_state(model)
    state["head.weight"] = torch.stack([state["head.weight"], state["head.weight"] * 2], dim=2)[:, :, 0]  # strided
    torch.save(state, tmp_path / "weights.pth")
    other = build_model(tiny_config().model)
    load_weights(other, tmp_path / "weights.pth")
    np.testing.assert_array_equal(other.head.weight.numpy(), model.head.weight.numpy())


KINDS = [
    "Google .npz",
    "timm .safetensors",
    "timm .pth",
    "timm .pth, before torch 1.6",
    "PaddleClas .pdparams",
    "own .safetensors",
]


BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", [*KINDS, "transformers .safetensors"])
def test_damaged_files_are_user_errors_and_never_pass_a_checksum(model, tiny_config, tmp_path, kind):
    path, other = tmp_path / "weights", build_model(tiny_config().model)
    WRITERS[kind](model, path)
    content, expected = path.read_bytes(), model_arrays(model)

    @BOUNDED
    @given(st.integers(0, len(content) - 1))
    def cut(length):
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            load_weights(other, path)

    @BOUNDED
    @given(st.integers(0, len(content) - 1), st.integers(1, 255))
    def flip(position, change):
        damaged = bytearray(content)
        damaged[position] ^= change
        path.write_bytes(damaged)
        try:
            load_weights(other, path)
        except UserError:
            return
        if kind in ("Google .npz", "timm .pth"):  # the zip's CRC
            assert all(array.tobytes() == expected[name].tobytes() for name, array in model_arrays(other).items())

    cut()
    flip()


CHANGES = {
    "renamed": lambda state, name: state.update({f"x.{name}": state.pop(name)}),
    "reshaped": lambda state, name: state.update({name: torch.cat([state[name], state[name]])}),
    "of integers": lambda state, name: state.update({name: torch.zeros_like(state[name], dtype=torch.int64)}),
    "a scalar": lambda state, name: state.update({name: torch.zeros(())}),
    "gone": lambda state, name: state.pop(name),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_tensor_is_a_user_error_and_changes_nothing(model, tiny_config, tmp_path, change):
    path, other = tmp_path / "weights.pth", build_model(tiny_config().model)
    before = model_arrays(other)
    for name in timm_state(model):
        state = timm_state(model)
        CHANGES[change](state, name)
        torch.save(state, path)
        with pytest.raises(UserError, match=r"missing|misshapen|no known ViT"):
            load_weights(other, path)
    assert all(array.tobytes() == before[name].tobytes() for name, array in model_arrays(other).items())


@pytest.mark.parametrize("name", ["head.weight", "blocks.1.attn.qkv.bias", "pos_embed"])
@pytest.mark.parametrize("kind", ["Google .npz", "transformers .safetensors", "PaddleClas .pdparams", "own .safetensors"])
def test_one_nan_is_refused_by_name_in_loading_and_in_conversion(model, tiny_config, tmp_path, kind, name):
    path, other = tmp_path / "weights", build_model(tiny_config().model)
    array = model.state_dict()[name].numpy().copy()
    array.flat[-1] = np.nan
    model.state_dict()[name].set_value(array)
    WRITERS[kind](model, path)
    before = model_arrays(other)
    for read in (read_weights, lambda path: load_weights(other, path), lambda path: load_weights(other, path, strict=False)):
        with pytest.raises(UserError, match=f"{name} holds NaN or infinity"):
            read(path)
    assert all(array.tobytes() == before[name].tobytes() for name, array in model_arrays(other).items())


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pdparams"])
def test_conversion_there_and_back_keeps_every_byte(model, tmp_path, google_npz, suffix):
    source, arrays = google_npz(model, {"pre_logits/kernel": np.ones([16, 16], "float16"), "pre_logits/bias": np.ones(16)})
    middle, back = tmp_path / f"middle{suffix}", tmp_path / "back.npz"
    write_weights(read_weights(source), middle, heads=2)
    write_weights(read_weights(middle), back, heads=2)
    with np.load(back) as found:
        assert set(found.files) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()


def test_halved_weights_load_as_the_nearest_float16(model, tiny_config, tmp_path):
    save_weights(model_arrays(model), tmp_path / "best.safetensors")
    weights = read_weights(tmp_path / "best.safetensors")
    weights.halve()
    write_weights(weights, tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "best.safetensors").stat().st_size
    other = build_model(tiny_config().model)
    load_weights(other, tmp_path / "half.safetensors")
    for before, after in zip(model.parameters(), other.parameters()):
        np.testing.assert_array_equal(after.numpy(), before.numpy().astype("float16").astype("float32"))
    weights.tensors["head.bias"] = np.full(10, 1e5, "float32")
    with pytest.raises(UserError, match="head.bias holds numbers up to 1e.05, too large for float16: keep float32"):
        weights.halve()


def test_converted_files_are_what_their_libraries_expect(model, tmp_path, google_npz):
    source, arrays = google_npz(model)
    write_weights(read_weights(source), tmp_path / "weights.safetensors")
    write_weights(read_weights(source), tmp_path / "weights.pdparams")
    timm = safetensors_torch.load_file(tmp_path / "weights.safetensors")
    kernel = arrays["Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"]
    np.testing.assert_array_equal(timm["blocks.0.mlp.fc1.weight"].numpy(), kernel.T)  # torch: [out, in]
    assert model.set_state_dict(paddle.load(str(tmp_path / "weights.pdparams"))) == ([], [])
    np.testing.assert_array_equal(model.blocks[0].mlp.fc1.weight.numpy(), kernel)


@pytest.mark.parametrize(
    "name, heads, message",
    [
        ("w.pt", None, "name it .npz, .safetensors or .pdparams"),
        ("w.npz", 3, "3 heads do not divide the width 16"),
        ("absent/w.npz", 2, "cannot write .*absent/w.npz: No such file"),
        ("file/w.npz", 2, "cannot write .*file/w.npz: Not a directory"),
    ],
)
def test_a_conversion_that_cannot_be_is_a_user_error(model, tmp_path, google_npz, name, heads, message):
    source, _ = google_npz(model)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        write_weights(read_weights(source), tmp_path / name, heads)
    assert not list(tmp_path.glob("w.*"))


def test_heads_are_the_sources_or_else_those_of_the_released_vit(model, tmp_path, google_npz):
    source, _ = google_npz(model)
    write_weights(read_weights(source), tmp_path / "again.npz")  # two heads, as no released ViT of this width tells
    assert read_weights(tmp_path / "again.npz").heads == 2
    write_weights(read_weights(source), tmp_path / "w.pdparams")
    weights = read_weights(tmp_path / "w.pdparams")  # a format that does not tell
    with pytest.raises(UserError, match="no released ViT has the width 16 and 2 blocks: give the number of heads"):
        write_weights(weights, tmp_path / "w.npz")
    wide = {"cls_token": np.zeros([1, 1, 768]), **{f"blocks.{n}.norm1.weight": np.zeros(768) for n in range(8)}}
    with pytest.raises(UserError, match="the width 768 and 8 blocks"):  # PaddleClas's small one, of 8 heads and not 12
        write_weights(SourceWeights("", "", tensors=wide), tmp_path / "small.npz")


@pytest.mark.real
def test_the_real_weights_convert_there_and_back(real_data, tmp_path):
    source = real_data / "Ti_16-i21k-imagenet2012-res_224.npz"
    write_weights(read_weights(source), tmp_path / "middle.safetensors")
    write_weights(read_weights(tmp_path / "middle.safetensors"), tmp_path / "back.npz")
    with np.load(source) as expected, np.load(tmp_path / "back.npz") as found:
        assert set(found.files) == set(expected.files)
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected.files)


def test_a_changed_header_of_a_large_npz_member_is_an_error(tiny_config, google_npz):
    """A reader that stops where the header says the array ends never compares the CRC."""
    large = build_model(tiny_config("model.embed_dim=128", "model.classes=1000").model)
    path, _ = google_npz(large)
    content = path.read_bytes()
    at = content.index(b"<f4", content.index(b"head/kernel.npy"))
    path.write_bytes(content[:at] + b"<f2" + content[at + 3 :])
    with pytest.raises(UserError, match="damaged file"):
        load_weights(large, path)


def save_pickle(content):
    return lambda path: path.write_bytes(pickle.dumps(content, protocol=2))


STRANGE = {
    "keys that are numbers": (lambda path: torch.save({1: torch.ones(2)}, path), "holds no dictionary of tensors"),
    "keys of other kinds": (lambda path: torch.save({(1, 2): torch.ones(2)}, path), "holds no dictionary of tensors"),
    "keys that could collide": (lambda path: torch.save({2**61 - 1: torch.ones(2)}, path), "holds no dictionary of tensors"),
    "no tensors": (lambda path: torch.save({"epoch": 3}, path), "holds no dictionary of tensors"),
    "two models": (
        lambda path: torch.save({"a": {"cls_token": torch.ones(2)}, "b": {"cls_token": torch.ones(2)}}, path),
        "holds a and b, alike in size",
    ),
    "another network": (
        lambda path: torch.save({"conv1.weight": torch.ones(2, 2)}, path),
        "^[^(]*tensors are those of no known ViT",
    ),
    "one storage seen many times": (
        lambda path: torch.save({f"x{n}": view for n, view in enumerate([torch.ones(1000)] * 50)}, path),
        "damaged file",
    ),
    "an npz of dates": (
        lambda path: np.savez(path.open("wb"), **{"embedding/kernel": np.array(["2020"], "M8[Y]")}),
        "damaged file",
    ),
    "a list": (save_pickle([1, 2, 3]), "holds no dictionary of tensors"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_files_are_one_line_that_says_what(model, tmp_path, kind):
    write, message = STRANGE[kind]
    path = tmp_path / "weights"
    write(path)
    with pytest.raises(UserError, match=message) as error:
        load_weights(model, path)
    assert "\n" not in str(error.value)


def test_a_real_modules_state_dict_with_its_metadata_and_a_score_beside_it_loads(model, tiny_config, tmp_path):
    state = torch.nn.Linear(2, 2).state_dict()  # an OrderedDict with _metadata
    state.clear()
    state.update(timm_state(model))
    torch.save({"model": state, "best_accuracy": torch.tensor(0.9)}, tmp_path / "weights.pth")
    other = build_model(tiny_config().model)
    load_weights(other, tmp_path / "weights.pth")
    np.testing.assert_array_equal(other.head.weight.numpy(), model.head.weight.numpy())


def test_another_number_of_heads_is_an_error(model, tiny_config, google_npz):
    path, _ = google_npz(model)
    with pytest.raises(UserError, match="has 2 attention heads, the model 4"):
        load_weights(build_model(tiny_config("model.num_heads=4").model), path)


def test_two_names_for_one_tensor_are_an_error(model, tmp_path):
    huggingface(model).save_pretrained(tmp_path)
    state = safetensors_torch.load_file(tmp_path / "model.safetensors")
    safetensors_torch.save_file(state | {"layernorm.weight": torch.ones(16)}, tmp_path / "twice.safetensors")
    with pytest.raises(UserError, match=r"layernorm.weight, a second norm.weight unexpected"):
        load_weights(model, tmp_path / "twice.safetensors")


def test_loading_and_conversion_compare_the_checksum(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(model_arrays(model), path)
    for read in (read_weights, lambda path, sha256: load_weights(model, path, sha256=sha256)):
        with pytest.raises(UserError, match="expected 0000"):
            read(path, sha256="0" * 64)


@pytest.mark.parametrize("name", ["cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias"])
def test_tensors_of_no_vit_cannot_be_written_as_google_npz(model, tmp_path, name):
    path = tmp_path / "weights.safetensors"
    save_weights(model_arrays(model), path)
    weights = read_weights(path)
    weights.tensors[name] = np.zeros([7], "float32")
    with pytest.raises(UserError):
        write_weights(weights, tmp_path / "out.npz", heads=2)
    assert {p.name for p in tmp_path.iterdir()} == {"weights.safetensors"}
