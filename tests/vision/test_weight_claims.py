"""What weights tell of their model beside tensors is held against the config: this project's, timm's and transformers'."""

import json
import shlex

import pytest

from rdrop_paddle import UserError
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.vision import weight_claims
from rdrop_paddle.vision.task import ImageClassification

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TIMM = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 10,
    "pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": 0.9, **IMAGENET, "classifier": "head"},
}


@pytest.fixture
def weights(tiny_config, tmp_path):
    """weights(*overrides, **beside) -> a file of a tiny model that tells nothing, and {name of a .json: content} beside it."""

    def write(**beside):
        path = tmp_path / "weights.safetensors"
        save_weights(model_arrays(ImageClassification(tiny_config()).model), path)
        for name, content in beside.items():
            (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def error_of_loading(config, path):
    with pytest.raises(UserError) as error:
        ImageClassification(config).load_weights(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def advice(message):
    """The settings that a message says to give."""
    return shlex.split(message.partition("Give ")[2].partition(", or move")[0])


def test_weights_know_how_they_were_trained_and_no_other_config_takes_them(tiny_config, tmp_path):
    trained = ["model.mean=[0.4,0.5,0.6]", "model.epsilon=1e-5", "model.num_heads=4"]
    task = ImageClassification(tiny_config(*trained))
    path = tmp_path / "best.safetensors"
    told = weight_claims.of_model(task.config.model)
    save_weights(model_arrays(task.model), path, model=json.dumps(told))
    ImageClassification(tiny_config(*trained)).load_weights(path)
    message = error_of_loading(tiny_config(), path)
    assert f"model.num_heads is 2 here and 4 in the header of {path}" in message
    assert advice(message) == ["model.num_heads=4", "model.epsilon=1e-05", "model.mean=[0.4,0.5,0.6]"]
    for key in weight_claims.SETTINGS:
        assert key in told
    with pytest.raises(UserError, match="Give model.num_heads=4 model.epsilon=1e-05 'model.mean=\\[0.4,0.5,0.6\\]', or"):
        ImageClassification(tiny_config(f"model.weights={path}")).load_initial_weights()


@pytest.mark.parametrize("layout", ["now", "once"])
def test_timms_config_beside_a_file_is_compared(weights, tiny_config, layout):
    found = TIMM if layout == "now" else {**TIMM["pretrained_cfg"], "architecture": TIMM["architecture"]}
    path = weights(config=found)
    message = error_of_loading(tiny_config(), path)
    assert f"model.mean is [0.5, 0.5, 0.5] here and [0.485, 0.456, 0.406] in {path.parent / 'config.json'}" in message
    assert advice(message) == ["model.mean=[0.485,0.456,0.406]", "model.std=[0.229,0.224,0.225]"]
    ImageClassification(tiny_config(*advice(message))).load_weights(path)


def test_what_transformers_writes_is_compared(tiny_config, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4)
    transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10, **sizes)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    assert advice(error_of_loading(tiny_config(), path)) == ["model.epsilon=1e-12"]
    ImageClassification(tiny_config("model.epsilon=1e-12")).load_weights(path)
    pixels = dict(image_mean=IMAGENET["mean"], image_std=IMAGENET["std"], size={"height": 8, "width": 8})
    transformers.ViTImageProcessor(**pixels).save_pretrained(tmp_path)
    message = error_of_loading(tiny_config(), path)
    assert "preprocessor_config.json" in message and len(advice(message)) == 3
    ImageClassification(tiny_config(*advice(message))).load_weights(path)


@pytest.mark.parametrize(
    "found, expected",
    [
        (dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, size=8), []),
        (dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, size=9), ["model.image_size=9"]),
        (dict(size={"height": 12, "width": 12}, crop_size={"height": 8, "width": 8}, do_center_crop=True), []),
        (dict(size={"height": 8, "width": 8}, crop_size=4, do_center_crop=True), ["model.image_size=4"]),
        (dict(size={"shortest_edge": 8}), []),
        (dict(do_normalize=False), ["model.mean=[0.0,0.0,0.0]", "model.std=[1.0,1.0,1.0]"]),
        (dict(image_mean="imagenet"), ["model.mean=imagenet"]),
    ],
)
def test_a_preprocessor_tells_pixels_and_size(weights, tiny_config, found, expected):
    path = weights(preprocessor_config=found)
    if expected:
        assert advice(error_of_loading(tiny_config(), path)) == expected
    else:
        ImageClassification(tiny_config()).load_weights(path)


@pytest.mark.parametrize("name, where", [("hidden_act", {"num_attention_heads": 2}), ("act_layer", None)])
def test_another_activation_is_refused_whatever_is_set(weights, tiny_config, name, where):
    for activation in ("gelu", "quick_gelu"):
        path = weights(config={**where, name: activation} if where else {"model_args": {name: activation}})
        if activation == "quick_gelu":
            message = error_of_loading(tiny_config(), path)
            assert "with the activation quick_gelu" in message and "config.json" in message
        else:
            ImageClassification(tiny_config()).load_weights(path)


def test_another_image_size_is_for_training_on_and_not_for_evaluating(weights, tiny_config):
    path = weights(config=TIMM)
    config = tiny_config(*(f"model.{key}={numbers}" for key, numbers in IMAGENET.items()), "model.image_size=16")
    assert advice(error_of_loading(config, path)) == ["model.image_size=8"]
    config.model.weights = str(path)
    task = ImageClassification(config)
    task.load_initial_weights()
    assert task.weight_report.names("resized") == ["pos_embed"]


def test_files_beside_weights_that_are_damaged_are_named_and_those_of_others_say_nothing(weights, tiny_config):
    message = error_of_loading(tiny_config(), weights(config="{"))
    assert "cannot read" in message and "config.json, beside the weights" in message and "move it away" in message
    ImageClassification(tiny_config()).load_weights(weights(config=[1], model={"modelTopology": 1}, preprocessor_config={}))


def test_a_header_of_somebody_elses_says_nothing(tiny_config, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(model_arrays(ImageClassification(tiny_config()).model), path, model="vit_tiny", classes="cat, dog")
    task = ImageClassification(tiny_config())
    task.load_weights(path)
    assert task.kept_names is None
