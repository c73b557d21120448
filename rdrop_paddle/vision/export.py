"""An image classifier as files that run without its code, see training/export.py."""

import numpy as np
from paddle.static import InputSpec

from ..training import export as exporting


def export(task, folder, weights, *, onnx=False):
    """The Checks of writing `folder`; errors as of training/export.py.

    Args:
        task: an ImageClassification whose model has its weights.
        weights: the WeightReport of loading them.
    """
    size, random = task.config.model.image_size, np.random.default_rng(0)
    images = InputSpec([None, 3, size, size], "float32", name="images")

    def made(batch):
        return [random.uniform(-1, 1, [batch, 3, size, size]).astype("float32")]

    return exporting.export(task.model, folder, describe(task, weights), [images], made, onnx=onnx)


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
