"""Exported folders: what is in them, that they are checked, and that they run without this project's code."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from conftest import BASE, ROOT
from PIL import Image

from rdrop_paddle import UserError, load_weights
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.training import export as exporting
from rdrop_paddle.training import inference
from rdrop_paddle.vision import export, prediction
from rdrop_paddle.vision.pixels import normalise
from rdrop_paddle.vision.task import ImageClassification


@pytest.fixture
def weights(tiny_config, tmp_path):
    model = ImageClassification(tiny_config()).model
    for seed, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.3, parameter.shape).astype("float32"))
    save_weights(model_arrays(model), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def task(tiny_config, weights):
    """A tiny model in training mode, and the report of loading its weights."""
    task = ImageClassification(tiny_config("model.drop_rate=0.5"))
    report = load_weights(task.model, weights)
    task.model.train()
    return task, report


@pytest.fixture
def main(main_of, tiny_overrides, weights, tmp_path, monkeypatch):
    """main(*arguments) -> the tool's status for the tiny model's weights."""
    monkeypatch.chdir(tmp_path)
    tool = main_of("export.py")
    return lambda *arguments: tool("-c", BASE, "--weights", weights, *arguments, "-o", *tiny_overrides)


def predictor_of(folder):
    description = json.loads((folder / exporting.DESCRIPTION).read_text())
    return inference.load(str(folder / description["program"]), str(folder / description["parameters"]))


def test_an_exported_model_gives_the_models_logits_at_any_batch_size_without_dropout(task, tmp_path):
    task, report = task
    checks = export.export(task, tmp_path / "exported", report)
    assert [(check.runtime, check.batch, check.passed) for check in checks] == [
        ("paddle.inference", batch, True) for batch in exporting.BATCHES
    ]
    predictor = predictor_of(tmp_path / "exported")
    for count in (3, 7, 1):
        images = np.random.default_rng(count).uniform(-1, 1, [count, 3, 8, 8]).astype("float32")
        expected = task.model(paddle.to_tensor(images)).numpy()
        assert not task.model.training and np.ptp(expected) > 1
        found = inference.run(predictor, paddle.to_tensor(images))
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_description_says_what_the_files_are(task, weights, tmp_path):
    task, report = task
    export.export(task, tmp_path / "exported", report)
    files = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    description = json.loads(files.pop(exporting.DESCRIPTION))
    assert {description["program"], description["parameters"]} == set(files)
    assert description["sha256"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert description["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert description["class_names"] == list("0123456789") and description["image_size"] == 8
    assert [check["batch"] for check in description["checks"]] == list(exporting.BATCHES)
    grey = paddle.full([1, 1, 1, 3], 51, "uint8")
    described = (51 / 255 - description["mean"][0]) / description["std"][0]
    np.testing.assert_allclose(normalise(grey).numpy().ravel(), described, atol=1e-6)


def test_the_description_has_the_configs_normalisation(tiny_config, weights, tmp_path):
    task = ImageClassification(tiny_config("model.mean=[0.4,0.5,0.6]", "model.std=[0.1,0.2,0.3]"))
    export.export(task, tmp_path / "exported", task.load_weights(weights))
    description = json.loads((tmp_path / "exported" / exporting.DESCRIPTION).read_text())
    assert (description["mean"], description["std"]) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("wrong", [lambda logits: logits * 1.001, lambda logits: logits * np.nan, lambda logits: logits[:, 1:]])
def test_an_export_with_other_logits_is_not_kept(main, tmp_path, monkeypatch, capsys, wrong):
    monkeypatch.setattr(inference, "run", lambda *given, run=inference.run: wrong(run(*given)))
    assert main("--output", tmp_path / "exported") == 1
    printed = capsys.readouterr()
    assert "bound 1e-05  FAIL" in printed.out and "gives other logits" in printed.err
    assert not list(tmp_path.glob("exported*"))


def test_requests_that_cannot_end_well_are_refused(main, tmp_path, monkeypatch):
    (tmp_path / "exported").mkdir()
    with pytest.raises(UserError, match="exported exists already: choose another name"):
        main("--output", tmp_path / "exported")
    with pytest.raises(UserError, match="required: --output"):
        main()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*: Not a directory"):
        main("--output", tmp_path / "file" / "exported")
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="cannot write .*new: No space left on device for 1 MB; free some space"):
        main("--output", tmp_path / "new")
    assert not list(tmp_path.glob("new*"))
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    with pytest.raises(UserError, match="--onnx needs Paddle 3 and this is 2.6.2"):
        main("--output", tmp_path / "new", "--onnx")


def test_onnx_without_its_packages_names_the_command(main, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle, "__version__", "3.3.1")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--onnx needs paddle2onnx: pip install -r requirements-onnx.txt"):
        main("--output", tmp_path / "new", "--onnx")


def test_onnx_gives_the_same_logits(main, tmp_path, capsys):
    if paddle.__version__.startswith("2."):
        pytest.skip("paddle2onnx needs Paddle 3")
    pytest.importorskip("paddle2onnx", reason="paddle2onnx is not installed: requirements-onnx.txt")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: requirements-onnx.txt")
    assert main("--output", tmp_path / "exported", "--onnx") == 0
    assert len(re.findall(r"^onnxruntime +batch .* PASS$", capsys.readouterr().out, re.MULTILINE)) == len(exporting.BATCHES)
    images = np.random.default_rng(9).uniform(-1, 1, [3, 3, 8, 8]).astype("float32")
    session = runtime.InferenceSession(str(tmp_path / "exported" / exporting.ONNX))
    (by_onnx,) = session.run(None, {"images": images})
    by_paddle = inference.run(predictor_of(tmp_path / "exported"), paddle.to_tensor(images))
    notes = session.get_modelmeta().custom_metadata_map
    assert [json.loads(notes[key]) for key in ("mean", "std", "image_size")] == [[0.5] * 3, [0.5] * 3, 8]
    assert json.loads(notes["class_names"]) == list("0123456789") and "(x / 255 - mean) / std" in notes["feed"]
    assert isinstance(session.get_inputs()[0].shape[0], str)  # a name, not a number: any batch size
    np.testing.assert_allclose(by_onnx, by_paddle, atol=1e-5 * np.abs(by_paddle).max())


def test_onnx_runtimes_quantization_finds_the_weights(main, tmp_path, capfd):
    if paddle.__version__.startswith("2."):
        pytest.skip("paddle2onnx needs Paddle 3")
    onnx = pytest.importorskip("onnx", reason="paddle2onnx is not installed: requirements-onnx.txt")
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed: requirements-onnx.txt")
    assert main("--output", tmp_path / "exported", "--onnx") == 0
    assert "W:onnxruntime" not in capfd.readouterr().err  # as a warning begins
    path, quantized = tmp_path / "exported" / exporting.ONNX, tmp_path / "int8.onnx"
    graph = onnx.load(path).graph
    assert [result.name for result in graph.output] == ["logits"]
    assert {tensor.name for tensor in graph.initializer} <= {name for node in graph.node for name in node.input}
    # the newest onnxruntime for Python 3.10 cannot run a quantised convolution
    quantization.quantize_dynamic(path, quantized, op_types_to_quantize=["MatMul"] if sys.version_info < (3, 11) else None)
    kinds = [node.op_type for node in onnx.load(quantized).graph.node]
    assert kinds.count("MatMulInteger") == 4 * 2 + 1  # the linear layers of two blocks, and the head
    images = np.random.default_rng(9).uniform(-1, 1, [3, 3, 8, 8]).astype("float32")
    (found,), (expected,) = (onnxruntime_session(p).run(["logits"], {"images": images}) for p in (quantized, path))
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())
    assert (found != expected).any()


def onnxruntime_session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_a_gpu_builds_export_has_the_linear_operators_that_paddle2onnx_knows(task, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)  # by which F.linear of Paddle 3.3 chooses its operator
    task, report = task
    export.export(task, tmp_path / "exported", report)
    program = next(path for path in (tmp_path / "exported").glob("inference.*") if path.suffix in (".json", ".pdmodel"))
    content = program.read_bytes()
    assert b"matmul" in content and b"linear_v2" not in content


def test_a_conversion_to_onnx_that_aborts_is_one_line_and_leaves_no_folder(main, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: requirements-onnx.txt")
    monkeypatch.setattr(paddle, "__version__", "3.3.1")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: True)
    aborting = "import os, sys; print('unsupported', file=sys.stderr, flush=True); os.abort()"
    monkeypatch.setattr(exporting, "CONVERSION", aborting)
    with pytest.raises(UserError, match="^--onnx: paddle2onnx ended with status -6: unsupported$"):
        main("--output", tmp_path / "exported", "--onnx")
    assert not list(tmp_path.glob("exported*"))


@pytest.mark.parametrize("depth", ["8 bits of RGB", "16 bits of grey", "transparent"])
def test_the_example_needs_the_exported_folder_alone_and_answers_as_predict(task, tmp_path, depth):
    task, report = task
    task.config.model.mean, task.config.model.std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    export.export(task, tmp_path / "exported", report)
    turned = Image.Exif()
    turned[0x0112] = 6
    shades = np.linspace(0, 127, 11 * 9 * 3).reshape(11, 9, 3) + np.random.default_rng(0).choice([0, 128], [11, 9, 3])
    pixels = (257 * shades[..., 0]).astype("uint16") if depth == "16 bits of grey" else shades.astype("uint8")
    if depth == "transparent":
        pixels = np.concatenate([pixels, pixels[..., :1] * 2], axis=-1)
    Image.fromarray(pixels).save(tmp_path / "image.png", exif=turned)
    shutil.copy(ROOT / "examples" / "inference.py", tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "inference.py", "exported", "image.png", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (answer,) = prediction.predict(task, [tmp_path / "image.png"])
    *classes, latency, throughput = done.stdout.splitlines()
    assert len(classes) == 5 and classes[0].split()[1] == str(prediction.top(answer, 1)[0])
    for probability, label in map(str.split, classes):
        assert float(probability) == pytest.approx(answer.probabilities[int(label)], abs=0.003)  # Pillow rounds the pixels
    assert re.fullmatch(r"latency +\d+\.\d ms for one image, the median of 20 runs", latency)
    assert re.fullmatch(r"throughput +\d+\.\d images/s, 16 at once, 1 threads", throughput)
