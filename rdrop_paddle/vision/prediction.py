"""What a model says of image files: class probabilities, and how far they spread under dropout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import paddle
import paddle.nn.functional as F

from ..console import say
from ..errors import UserError
from ..training.dropout_passes import check_passes, disagreement, dropout_logits
from ..training.inference import for_evaluation
from . import data, image_files, pixels
from .augmentation import Augmentation


@dataclass(frozen=True)
class Prediction:
    """What was found for one image file; `error` tells why there is nothing. The last two belong to passes with dropout."""

    path: Path
    error: Optional[str] = None
    probabilities: Optional[np.ndarray] = None  # [classes]; the mean over the passes
    spread: Optional[np.ndarray] = None  # [classes], standard deviation over the passes
    disagreement: Optional[float] = None  # mean symmetric KL divergence between two passes, in nats


def find_images(names):
    """Paths of image files: files as they are named, and all that lie anywhere in a folder, sorted, as in training.

    What is left out of a folder is told in a line on stderr.

    Raises:
        UserError: a name that is neither, or a folder without images.
    """
    found = []
    for path in map(Path, names):
        if not path.exists():
            raise UserError(f"{path}: no such image or folder")
        inside, left_out = image_files.search(path) if path.is_dir() else ([path], [])
        told = image_files.in_words(left_out) if left_out else ""
        if not inside:
            raise UserError(f"{path}: no images in this folder" + (f", only {told}" if told else ""))
        if told:
            say(f"left out: {told}")
        found += inside
    return found


def predict(task, paths, passes=None):
    """Yield a Prediction for each of `paths`, in order, computed in batches of `eval.batch_size`; until the last is taken
    the model is in use.

    Args:
        task: an ImageClassification, of which the model and the config are used, not the data.
        passes: Monte-Carlo dropout (Gal and Ghahramani, arXiv 1506.02142): so many passes with dropout instead of one
            without. Every image meets the same masks, drawn from `train.seed`, whatever images are beside it.

    Raises:
        UserError: fewer than two passes, or a model without dropout.
    """
    if passes is not None:
        check_passes(passes, drops=task.config.model.drop_rate > 0 or task.config.model.proj_drop_rate > 0)
    task.model.eval()
    with for_evaluation(task.model, len(paths) if passes is None else 0) as model:
        for start in range(0, len(paths), task.config.eval.batch_size):
            read = [_read(task, path) for path in paths[start : start + task.config.eval.batch_size]]
            images = [image for _, image, error in read if error is None]
            found = iter(_answers(model, images) if passes is None else [_dropout_answer(task, i, passes) for i in images])
            for path, _, error in read:
                yield Prediction(path, error) if error else Prediction(path, None, *next(found))


def model_input(task, path):
    """The image file as the model sees it in evaluation, by the same code: float32 [1, 3, S, S].

    Raises:
        UserError: it cannot be read.
    """
    if task.config.data.name == "folder":
        image = np.array([path], dtype=object)
    else:
        image = np.asarray(image_files.open_image(path))[None]  # [1, H, W, 3]
    first = np.zeros(1, "int64")
    images = data.Images(image, rows=first, labels=first, class_names=[])
    batch = data.dataset(images, task.config.model.image_size, Augmentation()).read(epoch=0, indices=first)
    return task.model_input(list(map(pixels.upload, batch)))


def top(prediction, count):
    """The labels of the `count` likeliest classes, the likeliest first."""
    return np.argsort(-prediction.probabilities, kind="stable")[:count].tolist()


def table(prediction, class_names, count):
    """The `count` likeliest classes, one to a line, under the file's name."""
    lines = [str(prediction.path)]
    for label in top(prediction, count):
        spread = "" if prediction.spread is None else f" +- {prediction.spread[label]:.4f}"
        lines.append(f"  {prediction.probabilities[label]:.4f}{spread}  {class_names[label]}")
    if prediction.disagreement is not None:
        lines.append(f"  disagreement {prediction.disagreement:.4f} nats (mean symmetric KL divergence between two passes)")
    return "\n".join(lines)


def as_json(prediction, class_names, count):
    """What `table` shows, or the error, as JSON values."""
    found = {"image": str(prediction.path)}
    if prediction.error:
        return {**found, "error": prediction.error}
    found["top"] = [
        {"label": label, "class": class_names[label], "probability": prediction.probabilities[label].item()}
        for label in top(prediction, count)
    ]
    if prediction.spread is not None:
        for row in found["top"]:
            row["spread"] = prediction.spread[row["label"]].item()
        found["disagreement"] = prediction.disagreement
    return found


def _read(task, path):
    """(path, model input or None, error or None)."""
    try:
        return path, model_input(task, path), None
    except UserError as error:
        return path, None, str(error)


def _answers(model, images):
    """(probabilities, no spread, no disagreement) for each of the inputs [1, 3, S, S]."""
    if not images:
        return []
    with paddle.no_grad():
        probabilities = F.softmax(model(paddle.concat(images)), axis=-1).numpy()
    return [(of_image, None, None) for of_image in probabilities]


def _dropout_answer(task, image, passes):
    config = task.config
    logits = dropout_logits(task.model, [image], passes, seed=config.train.seed, batch_size=config.eval.batch_size)
    probabilities = F.softmax(logits, axis=-1).numpy()
    return probabilities.mean(axis=0), probabilities.std(axis=0, ddof=1), disagreement(logits)
