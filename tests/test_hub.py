"""hubconf.py, as Paddle's hub reads it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT

from rdrop_paddle import UserError, build_model
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.text.generation import generate

NAME = "vit_ti16_cifar100_rdrop"
CLASSES = [f"thing {number}" for number in range(10)]
AS_A_USER = f"""
import sys, paddle
repository, weights = sys.argv[1:]
assert "rdrop_paddle" not in sys.modules
listed = ["classifier", "language_model", "multi30k_deen_rdrop", "summariser", "translator", "{NAME}"]
assert sorted(paddle.hub.list(repository, source="local")) == listed
model = paddle.hub.load(repository, "{NAME}", source="local")
assert not model.training
import safetensors.numpy
for name, array in safetensors.numpy.load_file(weights).items():
    assert (dict(model.named_parameters())[name].numpy() == array).all(), name
assert paddle.hub.load(repository, "{NAME}", source="local", pretrained=False).training
assert model.class_names == {CLASSES}
print(list(model(paddle.zeros([2, 3, 8, 8])).shape))
"""


@pytest.fixture
def repository(tiny_config, tmp_path):
    """A copy of what the hub needs, with a tiny model as the released one."""
    folder = tmp_path / "copy"
    released = folder / "results" / NAME
    released.mkdir(parents=True)
    config = tiny_config()
    (released / "config.yaml").write_text(config.to_yaml())
    save_weights(model_arrays(build_model(config.model)), released / "model.safetensors")
    (released / "classes.json").write_text(json.dumps(CLASSES))
    for name in ("configs", "rdrop_paddle"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hubconf.py", folder)
    return folder


def test_the_hub_lists_and_loads_the_released_model_from_anywhere(repository, tmp_path):
    weights = repository / "results" / NAME / "model.safetensors"
    command = [sys.executable, "-c", AS_A_USER, str(repository), str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[2, 10]"


def test_weights_that_are_absent_or_damaged_are_a_users_error(repository):
    weights = repository / "results" / NAME / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors"):
        paddle.hub.load(str(repository), NAME, source="local")
    weights.unlink()
    with pytest.raises(UserError, match=f"no released weights at .*{NAME}/model.safetensors: get them"):
        paddle.hub.load(str(repository), NAME, source="local")


def test_help_says_how_to_feed_the_model():
    text = paddle.hub.help(str(ROOT), NAME, source="local")
    for words in ("[N, 3, 96, 96]", "(x / 255 - 0.5) / 0.5", "bilinear", "logits [N, 100]", "without dropout"):
        assert words in text


@pytest.mark.real
def test_the_released_model_is_the_one_that_help_describes():
    if not (ROOT / "results" / NAME / "model.safetensors").exists():
        pytest.skip(f"no released weights in results/{NAME}")
    model = paddle.hub.load(str(ROOT), NAME, source="local")
    assert model(paddle.zeros([2, 3, 96, 96])).shape == [2, 100]
    assert model.class_names[::33] == ["apple", "forest", "raccoon", "worm"]
    assert 5.45e6 < sum(int(np.prod(p.shape)) for p in model.parameters()) < 5.55e6


def test_a_trained_translator_translates_as_predict_does(translation, tmp_path):
    trained = translation()
    (tmp_path / "config.yaml").write_text(trained.config.to_yaml())
    checkpoint.save_best(tmp_path, trained.model, trained.belongings(), update=1)
    model = paddle.hub.load(str(ROOT), "translator", source="local", run=tmp_path)
    trained.model.eval()
    expected = generate(trained.model, trained.tokens, ["ein Hund", ""], trained.config.decode)
    assert model.translate(["ein Hund", ""]) == [expected[0][0].text, ""]
    for texts in ("ein Hund", [None], [("ein", "Hund")]):
        with pytest.raises(UserError, match=r"give a list of texts, of one text \[text\]"):
            model.translate(texts)
    for entry in ("summariser", "language_model", "classifier"):
        with pytest.raises(UserError, match=f"{tmp_path} is a run of translation: give one of "):
            paddle.hub.load(str(ROOT), entry, source="local", run=tmp_path)


def test_a_trained_classifier_gives_the_probabilities_of_its_classes(understanding, tmp_path):
    trained = understanding()
    checkpoint.save_best(tmp_path, trained.model, trained.belongings(), update=1)
    (tmp_path / "config.yaml").write_text(trained.config.to_yaml())
    model = paddle.hub.load(str(ROOT), "classifier", source="local", run=str(tmp_path))
    assert not model.training
    texts = [("Hund rennt", "ein Hund"), ("", "ein Hund")]
    trained.model.eval()
    assert model.classify(texts) == trained.classify(texts)
    assert list(model.classify(texts)[0]) == ["no", "perhaps", "yes"] and model.classify(texts)[1] is None
    for wrong in ("Hund rennt", ["Hund rennt"], [("Hund", "rennt", "nicht")], [("Hund", None)]):
        with pytest.raises(UserError, match=r"give a list of pairs \(text, second text\), each of them strings"):
            model.classify(wrong)
    single = understanding("data.text_pair=null", "model.weights=")
    assert len(single.classify(["Hund rennt"])) == 1
    for wrong in ("Hund rennt", [("Hund", "rennt")], [None]):
        with pytest.raises(UserError, match="give a list of texts, each of them strings"):
            single.classify(wrong)
