"""The model as files that run without its code: Paddle's inference format and ONNX, each checked against the model itself.

A folder holds inference.json (the program; inference.pdmodel with Paddle 2), inference.pdiparams (its parameters),
inference.onnx if asked for, and description.json: how to feed the model, what its classes are called, and the files' sha256.
"""

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle

from ..durability import files
from ..errors import UserError
from ..training import inference

NAME = "inference"  # of the model's files, as in PaddleClas
ONNX = f"{NAME}.onnx"
OPSET = 17  # of ONNX, the first to have LayerNormalization
# a program for a process of its own; given the target's path, paddle2onnx would fold constants by a tool that installs
# packages unasked
CONVERSION = f"""
import sys, paddle2onnx
program, parameters, target = sys.argv[1:]
with open(target, "wb") as file:
    file.write(paddle2onnx.export(program, parameters, opset_version={OPSET}))
"""
LOGITS = "logits"  # name of the result in ONNX
DESCRIPTION = "description.json"
PROGRAM_BYTES = 2**20  # more than any ViT's program takes without its parameters
BATCHES = (1, 2, 5, 16)  # images in the batches that are compared
BOUND = 1e-5  # of the difference between logits, relative to the largest


@dataclass(frozen=True)
class Check:
    """The logits of a runtime against the model's, for one batch of random images: max|a-b| / max|b|."""

    runtime: str
    batch: int
    difference: float

    @property
    def passed(self):
        return self.difference <= BOUND  # not so for NaN

    def __str__(self):
        verdict = "PASS" if self.passed else "FAIL"
        found = f"max relative difference {self.difference:.1e}, bound {BOUND:.0e}"
        return f"{self.runtime:<16}  batch {self.batch:>2}  {found}  {verdict}"


def check_request(folder, onnx):
    """Refuse what cannot end well: before the work.

    Raises:
        UserError: the folder exists already, or what ONNX needs is missing.
    """
    if folder.exists():
        raise UserError(f"--output {folder} exists already: choose another name")
    if onnx and paddle.__version__.startswith("2."):
        raise UserError(
            f"--onnx needs Paddle 3 and this is {paddle.__version__}: leave it out, or pip install -r requirements.txt"
        )
    for package in ("paddle2onnx", "onnxruntime") if onnx else ():
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--onnx needs {package}: pip install -r requirements-onnx.txt")


def export(task, folder, weights, *, onnx=False):
    """Write `folder`, which is there when all checks passed and not otherwise; returns the Checks.

    Args:
        task: an ImageClassification whose model has its weights.
        weights: the WeightReport of loading them.

    Raises:
        UserError: the folder cannot be written, or paddle2onnx fails.
    """
    notes = describe(task, weights)
    task.model.eval()
    size = task.config.model.image_size
    images = paddle.static.InputSpec([None, 3, size, size], "float32", name="images")
    unfinished = folder.with_name(folder.name + files.UNFINISHED)
    with files.writing(folder):
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir(parents=True)
        try:
            _check_space(task.model, unfinished, copies=2 if onnx else 1)
            program, parameters = inference.save(task.model, [images], unfinished / NAME)
            predictor = inference.load(program, parameters)
            runtimes = {"paddle.inference": lambda images: inference.run(predictor, paddle.to_tensor(images))}
            if onnx:
                runtimes["onnxruntime"] = _save_onnx(program, parameters, unfinished / ONNX, notes)
            checks = _compare(task.model, size, runtimes)
            if all(check.passed for check in checks):
                notes |= of_files(Path(program), checks)
                files.write_file(unfinished / DESCRIPTION, files.json_bytes(notes))
                unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return checks


def describe(task, weights):
    """How to feed the model and read its logits, as JSON values. Errors: see ImageClassification.class_names."""
    size = task.config.model.image_size
    return {
        "name": task.config.name,
        "weights_sha256": weights.sha256,
        "image_size": size,
        "mean": task.config.model.mean,
        "std": task.config.model.std,
        "feed": f"float32 [N, 3, {size}, {size}], any N: the image in RGB, upright by its EXIF orientation, resized as a whole "
        f"to {size} x {size} pixels (bilinear, as Pillow does it), (x / 255 - mean) / std, channels first",
        "result": "logits, float32 [N, classes]; their softmax is the probabilities, in the order of class_names",
        "class_names": task.class_names(),
    }


def of_files(program, checks):
    """What the file `program` and those beside it are, as JSON values."""
    return {
        "program": program.name,
        "parameters": f"{NAME}.pdiparams",
        "sha256": {path.name: files.sha256_of(path) for path in sorted(program.parent.iterdir())},
        "paddle": paddle.__version__,
        "checks": [{**asdict(check), "bound": BOUND} for check in checks],
    }


def _check_space(model, folder, copies):
    """Raises an OSError when so many files of the parameters will not fit: Paddle itself says nothing of a full disk."""
    needed = copies * (4 * sum(parameter.size for parameter in model.parameters()) + PROGRAM_BYTES)
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {needed / 1e6:.0f} MB")


def _save_onnx(program, parameters, path, notes):
    """Convert the model's files to one at `path`, with JSON values as its metadata; from images [N, 3, S, S] to logits."""
    import onnxruntime

    # paddle2onnx aborts its process at an operator that it does not know
    command = [sys.executable, "-c", CONVERSION, program, parameters, str(path)]
    converted = subprocess.run(command, capture_output=True, text=True)
    if converted.returncode:
        *_, last = ["no word", *converted.stderr.strip().splitlines()]
        raise UserError(f"--onnx: paddle2onnx ended with status {converted.returncode}: {last}")
    files.write_file(path, _finished(path.read_bytes(), notes))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run([LOGITS], {"images": images})[0]


def _finished(converted, notes):
    """paddle2onnx's model, bytes, with the weights as initializers, where tools such as onnxruntime's quantize_dynamic look.

    It has them as outputs of nodes, some of which nothing uses, and calls the result "fetch_name_0". `notes` become metadata.
    """
    import onnx

    model = onnx.load_from_string(converted)
    graph, (result,) = model.graph, model.graph.output
    used = {name for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in used:
            graph.initializer.add().CopyFrom(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    (last,) = [node for node in nodes if result.name in node.output]
    last.output[0] = result.name = LOGITS
    del graph.node[:]
    graph.node.extend(nodes)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _compare(model, size, runtimes):
    """The Checks of {name of a runtime: function from images to logits}."""
    random, checks = np.random.default_rng(0), []
    for batch in BATCHES:
        images = random.uniform(-1, 1, [batch, 3, size, size]).astype("float32")
        with paddle.no_grad():
            expected = model(paddle.to_tensor(images)).numpy()
        scale = max(np.abs(expected).max(), np.finfo("float32").tiny)  # a new head gives zeros
        for runtime, run in runtimes.items():
            found = run(images)
            same_shape = found.shape == expected.shape
            checks.append(Check(runtime, batch, float(np.abs(found - expected).max() / scale) if same_shape else np.inf))
    return checks
