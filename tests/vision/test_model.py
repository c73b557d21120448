import numpy as np
import paddle
import pytest
from conftest import BASE, recomputes, slopes
from scipy.special import erf

from rdrop_paddle import UserError, VisionTransformer, build_model, load_config
from rdrop_paddle.training import inference
from rdrop_paddle.vision.architectures import ARCHITECTURES

# ImageNet heads at 224 px as published for each, and the two of the CIFAR-100 recipe
PARAMETERS = {
    ("vit_ti16", 224, 1000): 5_717_416,
    ("vit_s16", 224, 1000): 22_050_664,
    ("vit_b16", 224, 1000): 86_567_656,
    ("vit_b32", 224, 1000): 88_224_232,
    ("vit_l16", 224, 1000): 304_326_632,
    ("vit_l32", 224, 1000): 306_535_400,
    ("vit_h14", 224, 1000): 632_045_800,
    ("vit_b16", 384, 100): 86_167_396,
    ("vit_b16", 224, 100): 85_875_556,
}


def model_config(*overrides):
    return load_config(BASE, overrides).model


def count(name, image_size, classes):
    with paddle.LazyGuard():  # shapes only: H/14 takes 2.5 GB otherwise
        model = build_model(model_config(f"model.name={name}", f"model.image_size={image_size}", f"model.classes={classes}"))
    return sum(int(np.prod(p.shape)) for p in model.parameters())


@pytest.mark.parametrize("key", PARAMETERS, ids=lambda key: "-".join(map(str, key)))
def test_parameter_counts(key):
    assert count(*key) == PARAMETERS[key]


def test_every_name_has_a_pinned_count():
    assert {name for name, _, _ in PARAMETERS} == set(ARCHITECTURES) - {"custom"}


def test_parameter_names_are_those_of_paddleclas_and_timm(tiny_config):
    names = {name for name, _ in build_model(tiny_config().model).named_parameters()}
    block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    expected = {"cls_token", "pos_embed"} | {
        f"{layer}.{kind}"
        for layer in ["patch_embed.proj", "norm", "head", *(f"blocks.{i}.{part}" for i in range(2) for part in block)]
        for kind in ("weight", "bias")
    }
    assert names == expected
    without = {name for name, _ in build_model(tiny_config("model.qkv_bias=false").model).named_parameters()}
    assert expected - without == {"blocks.0.attn.qkv.bias", "blocks.1.attn.qkv.bias"}


@pytest.fixture
def images():
    return paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, [3, 3, 8, 8]).astype("float32"))


def test_two_passes_are_two_single_passes_when_nothing_is_dropped(tiny_config, images):
    model = build_model(tiny_config().model)
    model.eval()
    single, double = model(images), model(images, passes=2)
    assert single.shape == [3, 10] and double.shape == [6, 10]
    np.testing.assert_allclose(double.numpy(), np.concatenate([single.numpy()] * 2), atol=1e-6)


def test_the_passes_differ_in_training_and_the_patches_are_embedded_once(tiny_config, images):
    model = build_model(tiny_config().model)
    seen = []
    model.patch_embed.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.shape[0]))
    p, q = model(images, passes=2).chunk(2)
    assert seen == [3]
    assert np.abs((p - q).numpy()).max() > 1e-3


def dropout_sites(model):
    return {name: layer.p for name, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Dropout)}


def test_dropout_sits_where_the_recipe_says(tiny_config):
    sites = dropout_sites(build_model(tiny_config("model.drop_rate=0.1").model))
    assert sites == {
        "pos_drop": 0.1,
        **{f"blocks.{i}.mlp.{name}": 0.1 for i in range(2) for name in ("drop1", "drop2")},
        **{f"blocks.{i}.attn.proj_drop": 0.0 for i in range(2)},
    }
    aistudio = dropout_sites(build_model(tiny_config("model.drop_rate=0.1", "model.proj_drop_rate=0.1").model))
    assert set(aistudio.values()) == {0.1}


def numpy_vit(model, images, patch, heads):
    """The ViT of arXiv 2010.11929 written out in numpy float64: one patch and one head at a time, exact GELU."""
    weight = {name: p.numpy().astype("float64") for name, p in model.named_parameters()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * weight[f"{name}.weight"] + weight[f"{name}.bias"]

    def linear(x, name):
        return x @ weight[f"{name}.weight"] + weight[f"{name}.bias"]

    def attention(x, name):
        query, key, value = np.split(linear(x, f"{name}.qkv"), 3, axis=-1)
        mixed = []
        for q, k, v in zip(*(np.split(part, heads, axis=-1) for part in (query, key, value))):
            scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ v)
        return linear(np.concatenate(mixed, axis=-1), f"{name}.proj")

    side = images.shape[-1] // patch
    kernel = weight["patch_embed.proj.weight"]  # [D, 3, P, P]
    patches = [
        np.einsum("ncyx,dcyx->nd", images[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch], kernel)
        for r in range(side)
        for c in range(side)
    ]
    tokens = np.stack(patches, axis=1) + weight["patch_embed.proj.bias"]
    x = np.concatenate([np.repeat(weight["cls_token"], len(images), axis=0), tokens], axis=1) + weight["pos_embed"]
    for i in range(len(model.blocks)):
        x = x + attention(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))), f"blocks.{i}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")


def test_the_logits_are_the_papers_formula(tiny_config):
    model = build_model(tiny_config().model)
    model.eval()
    for seed, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.5, parameter.shape).astype("float32"))
    images = np.random.default_rng(99).uniform(-1, 1, [2, 3, 8, 8])
    found = model(paddle.to_tensor(images.astype("float32"))).numpy()
    np.testing.assert_allclose(found, numpy_vit(model, images, patch=4, heads=2), atol=5e-5)


def test_numbers_replace_those_of_the_name():
    model = build_model(model_config("model.name=vit_ti16", "model.depth=1", "model.image_size=32"))
    assert len(model.blocks) == 1 and model.pos_embed.shape == [1, 5, 192]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.name=vit_b61"], "did you mean vit_b16"),
        (["model.name=custom"], "has no patch_size, embed_dim"),
        (["model.image_size=100"], "model.image_size 100 is no multiple of model.patch_size 16"),
        (["model.num_heads=7"], "model.embed_dim 768 is no multiple of model.num_heads 7"),
    ],
)
def test_numbers_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build_model(model_config(*overrides))


def test_the_model_stands_alone():
    model = VisionTransformer(image_size=32, embed_dim=32, depth=1, num_heads=2, classes=5)
    assert model(paddle.zeros([2, 3, 32, 32])).shape == [2, 5]


def test_the_last_block_gives_the_class_token_as_if_it_gave_all(tiny_config, images):
    model = build_model(tiny_config("model.drop_rate=0", "rdrop.alpha=0").model)
    found = model(images)
    x = model.patch_embed(images)
    x = paddle.concat([model.cls_token.expand([3, 1, -1]), x], axis=1) + model.pos_embed
    for block in model.blocks:
        x = block(x)
    assert x.shape == [3, 5, 16]
    np.testing.assert_allclose(found.numpy(), model.head(model.norm(x)[:, 0]).numpy(), atol=1e-6)


def widths_of_blocks(model, images, **ways):
    """Samples in each forward of a block, in order, forward and backward."""
    seen = []
    hooks = [b.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))) for b in model.blocks]
    model(images, passes=2, **ways).sum().backward()
    for hook in hooks:
        hook.remove()
    return seen


def test_shared_blocks_are_computed_once_and_the_rest_twice(tiny_config, images):
    model = build_model(tiny_config("model.depth=3", "model.drop_rate=0.5").model)
    assert widths_of_blocks(model, images) == [6, 6, 6]
    assert widths_of_blocks(model, images, shared_blocks=1) == [3, 6, 6]
    assert widths_of_blocks(model, images, shared_blocks=2) == [3, 3, 6]


def test_passes_share_the_dropout_of_shared_blocks_alone(tiny_config, images):
    model = build_model(tiny_config("model.depth=3", "model.drop_rate=0", "rdrop.alpha=0").model)
    model.pos_drop.p = model.blocks[0].mlp.drop1.p = model.blocks[1].mlp.drop2.p = 0.5
    first, second = model(images, passes=2, shared_blocks=2).chunk(2)
    np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-6)
    first, second = model(images, passes=2, shared_blocks=1).chunk(2)
    assert np.abs(first.numpy() - second.numpy()).max() > 1e-3


@pytest.mark.parametrize("shared_blocks", [0, 1, 2])
def test_gradients_through_shared_blocks_are_the_numeric_ones(tiny_config, images, shared_blocks):
    """Two different losses of the passes, the same masks in every forward, float64."""
    model = build_model(tiny_config("model.depth=3", "model.drop_rate=0.3").model)
    model.to(dtype="float64")
    images = images.astype("float64")

    def loss():
        paddle.seed(5)
        first, second = model(images, passes=2, shared_blocks=shared_blocks).chunk(2)
        return (first.square().sum() + (first * second).sin().sum()) / 10

    found, expected = slopes(model, loss)
    assert found == pytest.approx(expected, rel=1e-6)


@recomputes
@pytest.mark.parametrize("shared_blocks", [0, 1])
def test_recompute_gives_the_same_gradient_to_the_bit_from_two_forwards_of_each_block(tiny_config, images, shared_blocks):
    model = build_model(tiny_config("model.depth=3", "model.drop_rate=0.5").model)
    found = []
    for recompute in (False, True):
        paddle.seed(1)
        forwards = widths_of_blocks(model, images, shared_blocks=shared_blocks, recompute=recompute)
        assert len(forwards) == (6 if recompute else 3)
        found.append([p.grad.numpy().tobytes() for p in model.parameters()])
        model.clear_gradients()
    assert found[0] == found[1]


def test_an_exported_model_gives_the_same_logits_at_any_batch_size(tiny_config, images, tmp_path):
    model = build_model(tiny_config().model)
    model.eval()
    paddle.jit.save(model, str(tmp_path / "vit"), input_spec=[paddle.static.InputSpec([None, 3, 8, 8])])
    exported = paddle.jit.load(str(tmp_path / "vit"))
    for batch in (images, images[:1]):
        np.testing.assert_allclose(exported(batch).numpy(), model(batch).numpy(), atol=1e-6)


@pytest.mark.parametrize("height, width", [(9, 8), (8, 11), (16, 4), (12, 12), (4, 4)])
def test_images_of_another_size_are_an_error_that_names_both(tiny_config, height, width):
    model = build_model(tiny_config().model)  # 8 x 8 in patches of 4; 16 x 4 has as many
    with pytest.raises(UserError, match=f"images of {height} x {width} pixels for a model of 8 x 8: resize them"):
        model(paddle.zeros([2, 3, height, width]))


@pytest.mark.parametrize("shape", [[None, 3, 8, 8], [None, 3, None, None]], ids=str)
def test_a_program_of_the_model_takes_its_size(tiny_config, images, shape, tmp_path):
    model = build_model(tiny_config().model)
    model.eval()
    expected, specification = model(images).numpy(), [paddle.static.InputSpec(shape, "float32")]
    recorded = inference.load(*inference.save(model, specification, tmp_path / "recorded"))
    np.testing.assert_allclose(inference.run(recorded, images), expected, atol=1e-6)
    translated = paddle.jit.to_static(model, input_spec=specification, full_graph=True)
    np.testing.assert_allclose(translated(images).numpy(), expected, atol=1e-6)
