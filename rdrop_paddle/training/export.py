"""The model as files that run without its code: Paddle's inference format and ONNX, each checked against the model itself.

A folder holds inference.json (the program; inference.pdmodel with Paddle 2), inference.pdiparams (its parameters),
inference.onnx if asked for, and description.json: how to feed the model and read its logits, and the files' sha256.
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
from . import inference

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
PROGRAM_BYTES = 2**20  # more than any model's program takes without its parameters
BATCHES = (1, 2, 5, 16)  # samples in the batches that are compared
BOUND = 1e-5  # of the difference between logits, relative to the largest


@dataclass(frozen=True)
class Check:
    """The logits of a runtime against the model's, for one batch of made samples: max|a-b| / max|b|."""

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


def export(model, folder, notes, inputs, made, *, onnx=False, beside=None):
    """Write `folder`, which is there when all checks passed and not otherwise; returns the Checks.

    Args:
        model: a Layer with its weights, left in evaluation mode.
        notes: JSON values that tell how to feed it and read its logits.
        inputs: an InputSpec with a name for each input, any length being None.
        made: a function of a number of samples that gives a batch of so many to compare with, an array for each input.
        beside: {name: JSON value} of further files NAME.json that one needs to feed it.

    Raises:
        UserError: the folder cannot be written, or paddle2onnx fails.
    """
    model.eval()
    unfinished = folder.with_name(folder.name + files.UNFINISHED)
    with files.writing(folder):
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir(parents=True)
        try:
            _check_space(model, unfinished, copies=2 if onnx else 1)
            program, parameters = inference.save(model, inputs, unfinished / NAME)
            predictor = inference.load(program, parameters)
            runtimes = {"paddle.inference": lambda *arrays: inference.run(predictor, *map(paddle.to_tensor, arrays))}
            if onnx:
                names = [specification.name for specification in inputs]
                runtimes["onnxruntime"] = _save_onnx(program, parameters, unfinished / ONNX, notes, names)
            checks = _compare(model, made, runtimes)
            if all(check.passed for check in checks):
                for name, value in (beside or {}).items():
                    files.write_file(unfinished / f"{name}.json", files.json_bytes(value))
                described = notes | of_files(Path(program), checks)
                files.write_file(unfinished / DESCRIPTION, files.json_bytes(described))
                unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return checks


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


def _save_onnx(program, parameters, path, notes, names):
    """Convert the model's files to one at `path`, with JSON values as its metadata; a function from its inputs to logits."""
    import onnxruntime

    # paddle2onnx aborts its process at an operator that it does not know
    command = [sys.executable, "-c", CONVERSION, program, parameters, str(path)]
    converted = subprocess.run(command, capture_output=True, text=True)
    if converted.returncode:
        *_, last = ["no word", *converted.stderr.strip().splitlines()]
        raise UserError(f"--onnx: paddle2onnx ended with status {converted.returncode}: {last}")
    files.write_file(path, _finished(path.read_bytes(), notes))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda *arrays: session.run([LOGITS], dict(zip(names, arrays)))[0]


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


def _compare(model, made, runtimes):
    """The Checks of {name of a runtime: function from inputs to logits}."""
    checks = []
    for batch in BATCHES:
        inputs = made(batch)
        with paddle.no_grad():
            expected = model(*map(paddle.to_tensor, inputs)).numpy()
        scale = max(np.abs(expected).max(), np.finfo("float32").tiny)  # a new head gives zeros
        for runtime, run in runtimes.items():
            found = run(*inputs)
            same_shape = found.shape == expected.shape
            checks.append(Check(runtime, batch, float(np.abs(found - expected).max() / scale) if same_shape else np.inf))
    return checks
