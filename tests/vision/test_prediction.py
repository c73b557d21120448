"""Predictions of image files: the pixels, the dropout passes, and tools/predict.py."""

import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import BASE
from PIL import Image

from rdrop_paddle import UserError, compute_kl_loss
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.training import inference
from rdrop_paddle.vision import cifar, data, prediction
from rdrop_paddle.vision.task import ImageClassification


def random_images(count, height=32, width=32):
    return np.random.default_rng(1).integers(0, 256, [count, height, width, 3], dtype="uint8")


def save_all(arrays, folder):
    folder.mkdir(parents=True)
    paths = [folder / f"{n:03}.png" for n in range(len(arrays))]
    for path, array in zip(paths, arrays):
        Image.fromarray(array).save(path)
    return paths


@paddle.no_grad()
def evaluated(task):
    """Probabilities [N, classes] of the test split, by the engine's way."""
    task.model.eval()
    return np.concatenate([F.softmax(task.forward(task.model, batch)[0]).numpy() for batch in task.batches("test")])


def test_test_images_of_cifar_saved_as_png_get_evaluations_answer_to_the_bit(task, small_cifar, tmp_path, monkeypatch):
    archive, path = small_cifar()
    monkeypatch.setitem(data.CIFAR, "cifar100", archive)
    cifar_task = task("data.name=cifar100", f"data.path={path}", "model.classes=2", "model.image_size=40")
    files = save_all(cifar.read(archive, path, "test")[0], tmp_path / "images")
    found = np.stack([answer.probabilities for answer in prediction.predict(cifar_task, files)])
    np.testing.assert_array_equal(found, evaluated(cifar_task))
    assert found.std(axis=0).min() > 0.005


def test_images_of_a_folder_get_evaluations_answer_to_the_bit(task, tmp_path):
    files = [
        file
        for part in ("train", "val")
        for n, name in enumerate(("cat", "dog"))
        for file in save_all(random_images(6, 20 + n, 30), tmp_path / "pets" / part / name)
    ]
    folder_task = task("data.name=folder", f"data.path={tmp_path / 'pets'}", "model.classes=2", "model.image_size=16")
    found = np.stack([answer.probabilities for answer in prediction.predict(folder_task, files[12:])])
    np.testing.assert_array_equal(found, evaluated(folder_task))


def test_many_images_are_predicted_by_the_inference_engine_as_in_evaluation(task, tmp_path, monkeypatch):
    task, files = task(), save_all(random_images(9), tmp_path / "images")
    plain = list(prediction.predict(task, files))
    exports = []
    monkeypatch.setattr(inference, "save", lambda *given, save=inference.save: exports.append(1) or save(*given))
    monkeypatch.setattr(inference, "WORTHWHILE", 1)
    for answer, expected in zip(prediction.predict(task, files), plain):
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-5)
    assert exports == [1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(task, tmp_path, orientation):
    turn_back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF's orientation -> Pillow's inverse transposition
    upright = Image.fromarray(random_images(1, 12, 16)[0])
    turned = upright.transpose(Image.Transpose(turn_back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.save(tmp_path / "upright.png")
    turned.save(tmp_path / "turned.png", exif=exif)
    inputs = [prediction.model_input(task(), tmp_path / name).numpy() for name in ("upright.png", "turned.png")]
    np.testing.assert_array_equal(*inputs)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16", "CMYK"])
def test_images_of_any_mode_are_read_as_what_is_seen(task, tmp_path, mode):
    levels = np.array([0, 255]) if mode == "1" else np.arange(256)
    grey = Image.fromarray(np.random.default_rng(0).choice(levels, [8, 8]).astype("uint8"))
    grey.convert("RGB").save(tmp_path / "rgb.png")
    image = Image.fromarray(np.asarray(grey).astype("uint16") * 257) if mode == "I;16" else grey.convert(mode)
    assert image.mode == mode
    name = "other.tif" if mode == "CMYK" else "other.png"
    image.save(tmp_path / name)
    inputs = [prediction.model_input(task(), tmp_path / n).numpy() for n in ("rgb.png", name)]
    np.testing.assert_array_equal(*inputs)


def test_an_image_that_cannot_be_read_is_named_and_the_others_answered(task, tmp_path):
    files = save_all(random_images(4), tmp_path / "images")
    whole = list(prediction.predict(task(), [files[0], *files[2:]]))
    files[1].write_bytes(files[1].read_bytes()[:-400])
    broken, *rest = sorted(prediction.predict(task(), files), key=lambda answer: answer.error is None)
    assert broken.path == files[1] and str(files[1]) in broken.error and broken.probabilities is None
    assert [answer.path for answer in rest] == [files[0], *files[2:]]
    for answer, expected in zip(rest, whole):
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-6)


def test_images_are_found_in_folders_in_order(tmp_path):
    save_all(random_images(2), tmp_path / "b" / "deeper")
    save_all(random_images(1), tmp_path / "a")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / "._000.png").write_text("a Mac's")
    save_all(random_images(1), tmp_path / "b" / ".ipynb_checkpoints")
    (tmp_path / "empty").mkdir()
    found = prediction.find_images([tmp_path / "b", tmp_path / "b" / "notes.txt", tmp_path / "a"])
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["b/deeper/000.png", "b/deeper/001.png", "b/notes.txt", "a/000.png"]
    with pytest.raises(UserError, match="empty: no images"):
        prediction.find_images([tmp_path / "a", tmp_path / "empty"])
    with pytest.raises(UserError, match="absent.png: no such image or folder"):
        prediction.find_images([tmp_path / "absent.png"])


def test_dropout_passes_give_mean_spread_and_disagreement(task, tmp_path):
    task = task("model.drop_rate=0.3")
    (path,) = save_all(random_images(1), tmp_path / "images")
    (answer,) = prediction.predict(task, [path], passes=11)
    image = prediction.model_input(task, path)
    logits = prediction.dropout_logits(task.model, [image], 11, seed=task.config.train.seed, batch_size=8)
    assert logits.shape == [11, 10] and not task.model.training
    probabilities = F.softmax(logits).numpy()
    assert len(np.unique(probabilities[:, 0])) == 11  # each pass has masks of its own
    np.testing.assert_allclose(answer.probabilities, probabilities.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(answer.spread, np.std(probabilities, axis=0, ddof=1), atol=1e-7)
    pairs = [
        compute_kl_loss(logits[i : i + 1], logits[j : j + 1], reduction="batchmean").item() for i in range(11) for j in range(i)
    ]
    assert answer.disagreement == pytest.approx(np.mean(pairs), rel=1e-5) and answer.disagreement > 0.01


def test_dropout_passes_repeat_whatever_images_are_beside(task, tmp_path):
    task = task("model.drop_rate=0.3")
    files = save_all(random_images(2), tmp_path / "images")
    first, second = prediction.predict(task, files, passes=3)
    (again,) = prediction.predict(task, files[1:], passes=3)
    assert (again.probabilities == second.probabilities).all() and again.disagreement == second.disagreement
    assert (first.probabilities != second.probabilities).any()


def test_passes_that_could_not_differ_are_refused(task):
    with pytest.raises(UserError, match="1 pass with dropout has no spread"):
        next(prediction.predict(task(), ["any.png"], passes=1))
    with pytest.raises(UserError, match="model.drop_rate is 0"):
        next(prediction.predict(task("model.drop_rate=0", "rdrop.alpha=0"), ["any.png"], passes=2))
    next(prediction.predict(task("model.drop_rate=0", "model.proj_drop_rate=0.1"), ["any.png"], passes=2))


def test_classes_have_names_without_the_data(tiny_config, tmp_path):
    def names(*overrides):
        return ImageClassification(tiny_config(*overrides)).class_names()

    assert names()[9] == "9"
    of_100 = names("data.name=cifar100", "model.classes=100", "data.path=absent")
    assert of_100[0] == "apple" and of_100[99] == "worm" and len(set(of_100)) == 100
    assert names("data.name=cifar10")[5] == "dog"
    assert names("data.name=folder", "model.classes=2") == ["class 0", "class 1"]
    folder = ["data.name=folder", f"data.path={tmp_path / 'pets'}", "model.classes=2"]
    assert names(*folder) == ["class 0", "class 1"]
    for name in ("dog", "cat"):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
    assert names(*folder) == ["cat", "dog"]
    with pytest.raises(UserError, match="model.classes is 3 but .*pets has 2 classes: set model.classes=2"):
        names(*folder, "model.classes=3")


@pytest.mark.real
def test_the_names_are_those_of_the_archive(real_data):
    assert cifar.read(cifar.CIFAR100, real_data / "cifar-100-python.tar.gz", "test")[2] == cifar.CIFAR100.class_names.split()


@pytest.fixture
def weights(task, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(model_arrays(task().model), path)
    return path


def test_the_tool_prints_names_and_probabilities_and_skips_broken_images(run_tool, tiny_overrides, weights, task, tmp_path):
    files = save_all(random_images(3), tmp_path / "images")
    files[1].write_bytes(b"no image")
    result, picture = tmp_path / "result.json", tmp_path / "attention.png"
    arguments = ["-c", BASE, "--weights", weights, tmp_path / "images", "--top", 2, "--passes", 3, "--json", result]
    done = run_tool("predict.py", *arguments, "--attention", picture, "-o", *tiny_overrides)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert f"error: cannot read the image {files[1]}" in done.stderr
    found = json.loads(result.read_text())
    assert [row["image"] for row in found["images"]] == list(map(str, files)) and "error" in found["images"][1]
    expected = list(prediction.predict(task(), files, passes=3))
    assert done.stdout == "".join(
        prediction.table(answer, list("0123456789"), 2) + "\n" for answer in expected if not answer.error
    )
    first, row = expected[0], found["images"][0]
    assert row == prediction.as_json(first, list("0123456789"), 2)
    label = int(np.argmax(first.probabilities))
    values = dict(probability=float(first.probabilities[label]), spread=float(first.spread[label]))
    assert row["top"][0] == {"label": label, "class": str(label), **values}
    assert f"  {first.probabilities[label]:.4f} +- {first.spread[label]:.4f}  {label}\n" in done.stdout
    assert f"disagreement {first.disagreement:.4f} nats" in done.stdout
    assert Image.open(picture).size == (896, 448)


@pytest.fixture
def main(main_of, tiny_overrides, weights, tmp_path, monkeypatch):
    """main(*arguments) -> the tool's status for the tiny model's weights."""
    monkeypatch.chdir(tmp_path)
    tool = main_of("predict.py")
    return lambda *arguments: tool("-c", BASE, "--weights", weights, *arguments, "-o", *tiny_overrides)


def test_json_alone_goes_to_stdout(main, capsys, tmp_path):
    files = save_all(random_images(2), tmp_path / "images")
    assert main(*files, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(row["top"]) for row in found["images"]] == [5, 5] and found["passes"] is None
    assert all("spread" not in row["top"][0] for row in found["images"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["absent.png"], "absent.png: no such image or folder"),
        (["{image}", "--passes", "1"], "1 pass with dropout has no spread"),
        (["{image}", "--passes", "none"], "argument --passes: 'none' is no integer from 1 on"),
        (["{image}", "--weights", "absent.safetensors"], "no weights at absent.safetensors"),
        (["{image}", "--attention", "picture.txt"], "--attention picture.txt: give a name that ends in .bmp, .jpeg"),
        (["{image}", "--json", "{image}/x"], "cannot write --json .*: Not a directory"),
        ([], "no images: name image files, or folders that are searched for them"),
    ],
)
def test_bad_usage_is_a_users_error(main, tmp_path, arguments, message):
    (image,) = save_all(random_images(1), tmp_path / "images")
    with pytest.raises(UserError, match=message):
        main(*(argument.format(image=image) for argument in arguments))
