"""A layer exported and run by Paddle's inference engine, which evaluates faster on a CPU than the layer itself.

Measured in benchmarks/NOTES.md: oneDNN's fused kernels evaluate ViT-Ti/16 a third faster; exporting takes about a second.
"""

import contextlib
import os
import sys
import tempfile

import numpy as np
import paddle
from paddle import inference
from paddle.static import InputSpec

WORTHWHILE = 10**10  # parameters times examples from which on exporting pays


def for_evaluation(layer, examples):
    """`layer`, or an Exported of it where that is the sooner through so many examples."""
    work = examples * sum(parameter.size for parameter in layer.parameters())
    if work < WORTHWHILE or paddle.get_device() != "cpu" or not paddle.base.core.is_compiled_with_mkldnn():
        return layer
    return Exported(layer)


class Exported:
    """What `layer`, which is in evaluation mode, computes with its weights of now: one tensor [N, ...] from others, for any N.

    It is exported at the first call, whose tensors show the types, and the shapes but for N. What the layer does must not
    depend on values of tensors otherwise than by computing with them, nor one example's output on the other examples: a
    smaller batch is filled up to the size of the first, because the engine would keep another copy of the weights for it.
    """

    def __init__(self, layer):
        self._layer = layer
        self._predictor = None
        self._size = 0  # of the first batch

    def __call__(self, *tensors):
        count = len(tensors[0])
        if self._predictor is None:
            self._predictor, self._size = _export(self._layer, tensors), count
        arrays = (tensor.numpy() for tensor in tensors)
        if count < self._size:
            arrays = (np.concatenate([array, np.repeat(array[:1], self._size - count, axis=0)]) for array in arrays)
        return paddle.to_tensor(run(self._predictor, *arrays)[:count])


def save(layer, specification, prefix):
    """Write the program of `layer`, which is in evaluation mode, and its parameters; returns the paths of these two files.

    Args:
        specification: an InputSpec for each input.
        prefix: the files' path without the suffix: .json (.pdmodel with Paddle 2) and .pdiparams.
    """
    # calls are recorded as they are; Paddle's translation of their source code would take several seconds
    paddle.jit.ignore_module(list({sys.modules[type(part).__module__] for part in layer.sublayers(include_self=True)}))
    with _hidden_warnings():
        paddle.jit.save(layer, str(prefix), input_spec=specification)
    program = next(path for path in (f"{prefix}.json", f"{prefix}.pdmodel") if os.path.exists(path))
    return program, f"{prefix}.pdiparams"


def load(program, parameters):
    """A predictor of Paddle's inference engine, on the CPU, for the files of `save`."""
    settings = inference.Config(program, parameters)
    settings.disable_gpu()
    settings.disable_glog_info()
    settings.enable_mkldnn()
    settings.set_cpu_math_library_num_threads(_threads())
    return inference.create_predictor(settings)


def run(predictor, *arrays):
    """The one output of `predictor` for numpy arrays, as another."""
    for name, array in zip(predictor.get_input_names(), arrays):
        predictor.get_input_handle(name).copy_from_cpu(array)
    predictor.run()
    paddle.base.core.set_num_threads(_threads())  # which the predictor leaves changed, and with it the rounding of training
    (name,) = predictor.get_output_names()
    return predictor.get_output_handle(name).copy_to_cpu()


def _threads():
    return int(os.environ.get("OMP_NUM_THREADS", 1))


def _export(layer, tensors):
    specification = [InputSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in tensors]
    with tempfile.TemporaryDirectory() as folder:
        return load(*save(layer, specification, f"{folder}/layer"))


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
