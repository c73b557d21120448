import numpy as np
import paddle
import pytest
from conftest import BASE
from scipy import ndimage

from rdrop_paddle import UserError, build_model, load_config, load_weights
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.vision.weights import resize_position_embedding


@pytest.fixture
def model(tiny_config):
    return build_model(tiny_config().model)


def test_google_weights_arrive_where_they_belong(model, google_npz):
    path, arrays = google_npz(model)
    report = load_weights(model, path)
    names = [name for name, _ in model.named_parameters()]
    assert [row.name for row in report.rows] == names
    assert report.names("fused") == [name for name in names if ".qkv." in name]
    assert report.names("transposed") == ["patch_embed.proj.weight"]
    assert report.names("reshaped") == ["blocks.0.attn.proj.weight", "blocks.1.attn.proj.weight"]
    found = model_arrays(model)
    attention = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    # column h * D/H + d of the key's third is head h, channel d
    np.testing.assert_array_equal(found["blocks.1.attn.qkv.weight"][:, 16 + 8 + 3], arrays[f"{attention}/key/kernel"][:, 1, 3])
    np.testing.assert_array_equal(found["blocks.1.attn.qkv.bias"][32 + 8 + 3], arrays[f"{attention}/value/bias"][1, 3])
    np.testing.assert_array_equal(found["blocks.1.attn.proj.weight"][8 + 3], arrays[f"{attention}/out/kernel"][1, 3])
    # OIHW here, HWIO in the file
    np.testing.assert_array_equal(found["patch_embed.proj.weight"][5, 2, 0, 3], arrays["embedding/kernel"][0, 3, 2, 5])
    np.testing.assert_array_equal(found["head.weight"], arrays["head/kernel"])


@pytest.mark.parametrize("old, new", [(14, 24), (14, 6), (24, 14), (14, 14), (2, 3), (5, 1)])
def test_position_embeddings_are_resized_as_by_scipys_zoom(old, new):
    embedding = np.random.default_rng(0).normal(size=[1, 1 + old * old, 12]).astype("float32")
    found = resize_position_embedding(embedding, 1 + new * new)
    grid = embedding[0, 1:].reshape(old, old, 12)
    expected = ndimage.zoom(grid, (new / old, new / old, 1), order=1)
    np.testing.assert_allclose(found[0, 1:].reshape(new, new, 12), expected, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], embedding[:, 0])
    assert found.dtype == np.float32


def test_another_image_size_resizes_and_is_reported(model, google_npz, tiny_config):
    path, _ = google_npz(model)
    larger = build_model(tiny_config("model.image_size=16").model)
    report = load_weights(larger, path)
    assert report.names("resized") == ["pos_embed"]
    assert "pos_embed" in str(report) and "[1, 5, 16] to [1, 17, 16]" in str(report)


def test_the_head_is_reset_to_zero_only_when_asked(model, google_npz, tiny_config):
    path, _ = google_npz(model)
    other = build_model(tiny_config("model.classes=7").model)
    before = model_arrays(other)
    with pytest.raises(UserError, match=r"head.weight misshapen \(\[16, 10\] in the file, \[16, 7\] in the model\)"):
        load_weights(other, path)
    after = model_arrays(other)
    assert all((after[name] == before[name]).all() for name in before)  # an error changes nothing
    report = load_weights(other, path, reset_head=True)
    assert report.names("reset") == ["head.weight", "head.bias"]
    assert not other.head.weight.numpy().any() and not other.head.bias.numpy().any()


def test_pre_logits_are_dropped_with_the_old_head_and_refused_otherwise(model, google_npz):
    extra = {"pre_logits/kernel": np.zeros([16, 16], "float32"), "pre_logits/bias": np.zeros([16], "float32")}
    path, _ = google_npz(model, extra)
    with pytest.raises(UserError, match="pre_logits.fc.weight unexpected"):
        load_weights(model, path)
    report = load_weights(model, path, reset_head=True)
    assert report.names("dropped") == ["pre_logits.fc.weight", "pre_logits.fc.bias"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cls": None}, "cls_token missing"),
        ({"extra/kernel": np.zeros(3)}, "extra/kernel unexpected"),
        ({"Transformer/encoder_norm/scale": np.zeros(3, "float32")}, r"norm.weight misshapen"),
        ({"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/bias": None}, "blocks.0.attn.qkv.bias missing"),
    ],
)
def test_what_does_not_fit_is_an_error_or_a_row(model, google_npz, changes, message):
    path, _ = google_npz(model, changes)
    with pytest.raises(UserError, match=message):
        load_weights(model, path)
    name, action = message.split()
    assert name in load_weights(model, path, strict=False).names(action)


@pytest.mark.parametrize("name", ["embedding/kernel", "{a}/out/kernel", "{a}/key/kernel", "{a}/query/bias"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_any_other_shape_in_an_npz_is_a_user_error(model, google_npz, name, shape):
    name = name.format(a="Transformer/encoderblock_0/MultiHeadDotProductAttention_1")
    path, _ = google_npz(model, {name: np.zeros(shape, "float32")})
    with pytest.raises(UserError, match="google.npz"):
        load_weights(model, path)


def test_any_flipped_byte_in_an_npz_is_a_user_error_or_changes_nothing(model, google_npz):
    path, _ = google_npz(model)
    content = path.read_bytes()
    load_weights(model, path)
    expected = model_arrays(model)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            load_weights(model, path)
        except UserError:
            continue
        found = model_arrays(model)
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_attention_biases_are_never_dropped_without_a_word(model, google_npz, tiny_config):
    path, _ = google_npz(model)
    with pytest.raises(UserError, match="blocks.0.attn.qkv.bias unexpected"):
        load_weights(build_model(tiny_config("model.qkv_bias=false").model), path, reset_head=True)


def test_own_weights_come_back_bit_for_bit(model, tiny_config, tmp_path):
    save_weights(model_arrays(model), tmp_path / "own.safetensors", update=3)
    other = build_model(tiny_config().model)
    report = load_weights(other, tmp_path / "own.safetensors")
    assert report.format == "rdrop_paddle .safetensors" and {row.action for row in report.rows} == {"loaded"}
    saved, loaded = model_arrays(model), model_arrays(other)
    assert all(saved[name].tobytes() == loaded[name].tobytes() for name in saved)


def test_a_flipped_bit_in_an_npz_is_an_error(model, google_npz):
    path, arrays = google_npz(model)
    content = bytearray(path.read_bytes())
    at = bytes(content).index(arrays["head/kernel"].tobytes())
    content[at + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_weights(model, path)


@pytest.mark.real
def test_the_real_weights_load_whole_with_their_own_head(real_data):
    overrides = ["model.name=vit_ti16", "model.image_size=224", "model.classes=1000"]
    model = build_model(load_config(BASE, overrides).model)
    report = load_weights(model, real_data / "Ti_16-i21k-imagenet2012-res_224.npz")
    assert "115 loaded, 1 transposed, 24 fused, 12 reshaped, sha256 12615d9129a6221080" in report.summary()
    model.eval()
    logits = model(paddle.zeros([1, 3, 224, 224]))
    assert 1 < logits.std().item() < 10  # random weights give about 0.3
