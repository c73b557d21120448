"""A layer exported and run by Paddle's inference engine, which evaluates faster on a CPU than the layer itself.

Measured in benchmarks/NOTES.md: oneDNN's fused kernels evaluate ViT-Ti/16 a third faster; exporting takes about a second.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import paddle
from paddle import inference
from paddle.static import InputSpec

from ..durability import files

WORTHWHILE = 10**10  # parameters times examples from which on exporting pays
AT_ONCE = 2_500_000  # bytes of input that the engine computes at once: 22 images of 96 px, or 4 of 224; more take memory


def for_evaluation(layer, examples):
    """A context that gives what computes as `layer`: itself, or its export where that is sooner through so many examples.

    Meanwhile `layer` itself must not be used.
    """
    work = examples * sum(parameter.size for parameter in layer.parameters())
    if work < WORTHWHILE or paddle.get_device() != "cpu" or not paddle.base.core.is_compiled_with_mkldnn():
        return contextlib.nullcontext(layer)
    return exported(layer)


@contextlib.contextmanager
def exported(layer):
    """What `layer`, which is in evaluation mode, computes with its weights of now: one tensor [N, ...] from others, for any N.

    It is exported at the first call, whose tensors show the types, and the shapes but for N. What the layer does must not
    depend on values of tensors otherwise than by computing with them, nor one example's output on the other examples.
    From then to the end the layer is without its weights, which the engine has: they wait in a file without a name.
    """
    with tempfile.TemporaryFile(buffering=0) as file:  # what does not fit on the disk is known at once, and once only
        engine = _Exported(layer, file)
        try:
            yield engine
        finally:
            engine.close()


class _Exported:
    def __init__(self, layer, file):
        self._layer = layer
        self._file = file
        self._emptied = []  # the layer's parameters while their values are in the file
        self._predictor = None
        self._size = 0  # of what the engine computes at once

    def __call__(self, *tensors):
        count = len(tensors[0])
        if self._predictor is None:
            size = sum(tensor.size * tensor.element_size() for tensor in tensors) // count  # of an example
            self._size = min(count, max(AT_ONCE // size, 1))
            self._export(tensors)
        # every part has this size, the last one too: the engine takes memory for each size that it has seen
        parts = (
            [_filled_up(tensor[start : start + self._size], self._size) for tensor in tensors]
            for start in range(0, count, self._size)
        )
        return paddle.to_tensor(np.concatenate([run(self._predictor, *part) for part in parts])[:count])

    def close(self):
        """Give the layer its weights again."""
        self._predictor = None
        _return_freed_memory()
        self._file.seek(0)
        for parameter in self._emptied:
            parameter.set_value(np.load(self._file))

    def _export(self, tensors):
        specification = [InputSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in tensors]
        with (
            tempfile.TemporaryDirectory() as folder,
            files.writing(folder, "free some space, or set TMPDIR to a folder that has some"),
        ):
            exported = save(self._layer, specification, f"{folder}/layer")
            for parameter in self._layer.parameters():
                np.save(self._file, parameter.numpy())
            self._emptied = self._layer.parameters()
            for parameter in self._emptied:
                parameter._clear_data()
            _return_freed_memory()
            self._predictor = load(*exported)


def save(layer, specification, prefix):
    """Write the program of `layer`, which is in evaluation mode, and its parameters; returns the paths of these two files.

    Args:
        specification: an InputSpec for each input.
        prefix: the files' path without the suffix: .json (.pdmodel with Paddle 2) and .pdiparams.
    """
    # calls are recorded as they are; Paddle's translation of their source code would take several seconds
    paddle.jit.ignore_module(list({sys.modules[type(part).__module__] for part in layer.sublayers(include_self=True)}))
    with _hidden_warnings(), _linear_as_product_and_sum():
        paddle.jit.save(layer, str(prefix), input_spec=specification)
    program = next(path for path in (f"{prefix}.json", f"{prefix}.pdmodel") if os.path.exists(path))
    Path(f"{prefix}.pdiparams.info").unlink(missing_ok=True)  # of Paddle 2, for going on with training
    return program, f"{prefix}.pdiparams"


def load(program, parameters):
    """A predictor of Paddle's inference engine, on the CPU, for the files of `save`."""
    settings = inference.Config(program, parameters)
    settings.disable_gpu()
    settings.disable_glog_info()
    settings.enable_mkldnn()
    settings.delete_pass("matmul_add_act_fuse_pass")  # its products keep the weights a second time, in a layout of oneDNN's
    settings.set_cpu_math_library_num_threads(_threads())
    return inference.create_predictor(settings)


def run(predictor, *tensors):
    """The one output of `predictor` for tensors, as a numpy array."""
    for name, tensor in zip(predictor.get_input_names(), tensors):
        predictor.get_input_handle(name).share_external_data(tensor)  # read where it lies
    predictor.run()
    paddle.base.core.set_num_threads(_threads())  # which the predictor leaves changed, and with it the rounding of training
    (name,) = predictor.get_output_names()
    return predictor.get_output_handle(name).copy_to_cpu()


def _threads():
    return int(os.environ.get("OMP_NUM_THREADS", 1))


def _filled_up(tensor, size):
    """[N, ...] to [size, ...], repeating the first example."""
    missing = size - len(tensor)
    return paddle.concat([tensor, *[tensor[:1]] * missing]) if missing else tensor


def _return_freed_memory():
    """What exporting and the layer's weights took goes to the engine instead of beside it."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@contextlib.contextmanager
def _linear_as_product_and_sum():
    """A GPU build of Paddle 3.3 has an operator of its own for F.linear, which neither paddle2onnx nor oneDNN's passes know."""
    flag = "FLAGS_use_legacy_linear"
    try:
        before = paddle.get_flags(flag)
    except ValueError:  # of a Paddle that has no such operator
        before = {}
    paddle.set_flags(dict.fromkeys(before, True))
    try:
        yield
    finally:
        paddle.set_flags(before)


@contextlib.contextmanager
def _hidden_warnings():
    """Without what Paddle's C++ says about its own scaled_dot_product_attention, straight to the descriptor of stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
