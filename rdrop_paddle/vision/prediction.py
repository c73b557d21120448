"""What a model says of image files: class probabilities, how far they spread under dropout, and where the model looks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import paddle
import paddle.nn.functional as F
from PIL import Image, ImageOps

from ..errors import UserError
from ..inference import for_evaluation
from ..loss import compute_kl_loss
from . import data, pixels
from .augmentation import Augmentation

PICTURE_SIDE = 448  # pixels of the longer side of either half of an overlay
COLOURS = dict(black="#000060", mid="#d03030", white="#ffff40")  # of the least, middle and most attention
OPACITY = 0.55  # of the colours over the image


@dataclass(frozen=True)
class Prediction:
    """What was found for one image file; `error` tells why there is nothing. The last two belong to passes with dropout."""

    path: Path
    error: Optional[str] = None
    probabilities: Optional[np.ndarray] = None  # [classes]; the mean over the passes
    spread: Optional[np.ndarray] = None  # [classes], standard deviation over the passes
    disagreement: Optional[float] = None  # mean symmetric KL divergence between two passes, in nats


def find_images(names):
    """Paths of image files: files as they are named, and all that lie anywhere in a folder, sorted.

    Raises:
        UserError: a name that is neither, or a folder without images.
    """
    found = []
    for path in map(Path, names):
        if not path.exists():
            raise UserError(f"{path}: no such image or folder")
        inside = _images_below(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: no images ({', '.join(sorted(data.IMAGE_SUFFIXES))}) in this folder")
        found += inside
    return found


def predict(task, paths, passes=None):
    """Yield a Prediction for each of `paths`, in order, computed in batches of `eval.batch_size`.

    Args:
        task: an ImageClassification, of which the model and the config are used, not the data.
        passes: Monte-Carlo dropout (Gal and Ghahramani, arXiv 1506.02142): so many passes with dropout instead of one
            without. Every image meets the same masks, drawn from `train.seed`, whatever images are beside it.

    Raises:
        UserError: fewer than two passes, or a model without dropout.
    """
    if passes is not None:
        _check_passes(task.config.model, passes)
    task.model.eval()
    model = for_evaluation(task.model, len(paths))
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
        image = np.asarray(data.open_image(path))[None]  # [1, H, W, 3]
    first = np.zeros(1, "int64")
    images = data.Images(image, rows=first, labels=first, class_names=[])
    batch = data.dataset(images, task.config.model.image_size, Augmentation()).read(epoch=0, indices=first)
    return task.model_input(list(map(pixels.upload, batch)))


def dropout_logits(model, image, passes, *, seed, batch_size):
    """Logits [passes, classes] of one image [1, 3, S, S] with dropout, at most `batch_size` passes at a time."""
    paddle.seed(seed)
    model.train()
    with paddle.no_grad():
        shares = [min(batch_size, passes - done) for done in range(0, passes, batch_size)]
        logits = paddle.concat([model(image, passes=share) for share in shares])
    model.eval()
    return logits


def disagreement(logits):
    """R-Drop's quantity: the symmetric KL divergence between two passes, the mean over all pairs of rows of `logits`."""
    passes = len(logits)
    # rolled by 1, 2, ..., each pass meets each other one; all pairs at once would take passes times the memory
    shifts = [compute_kl_loss(logits, logits.roll(shift, axis=0), reduction="batchmean") for shift in range(1, passes)]
    return (sum(shifts) / (passes - 1)).item()


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


def attention_weights(block, x):
    """How much each token of a block's input [N, L, D] attends to each, [N, H, L, L]; the last axis sums to 1.

    The model itself never holds them: its fused attention gives the weighted values only.
    """
    attention = block.attn
    query, key, _ = attention.qkv(block.norm1(x)).chunk(3, axis=-1)
    count, length, width = x.shape
    head_width = width // attention.num_heads
    query, key = (
        part.reshape([count, length, attention.num_heads, head_width]).transpose([0, 2, 1, 3]) for part in (query, key)
    )
    return F.softmax(query.matmul(key, transpose_y=True) / head_width**0.5, axis=-1)


def attention_rollout(model, image):
    """How much the class token draws from each patch of `image` [1, 3, S, S], through all blocks: [S/P, S/P].

    Attention rollout (Abnar and Zuidema, arXiv 2005.00928): the product of each block's weights, averaged over heads, with
    the identity added for the residual connection and the rows normalised. The patches' shares and the class token's own
    add up to 1.
    """
    rollout = []

    def follow(block, inputs):
        weights = attention_weights(block, inputs[0])[0].mean(axis=0)  # [L, L]
        weights = (weights + paddle.eye(len(weights))) / 2  # rows of weights add up to 1, of the identity too
        rollout[:] = [weights.matmul(rollout[0]) if rollout else weights]

    hooks = [block.register_forward_pre_hook(follow) for block in model.blocks]
    model.eval()
    with paddle.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    patches = rollout[0][0, 1:]
    side = round(len(patches) ** 0.5)
    return patches.reshape([side, side]).numpy()


def overlay(image, attention):
    """The picture `image`, and beside it the same coloured by `attention` [g, g]: blue least, red, yellow most."""
    scale = PICTURE_SIDE / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    share = (attention - attention.min()) / max(np.ptp(attention), np.finfo("float32").tiny)
    heat = Image.fromarray(np.round(255 * share).astype("uint8")).resize((width, height), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (2 * width, height))
    both.paste(image, (0, 0))
    both.paste(Image.blend(image, ImageOps.colorize(heat, **COLOURS), OPACITY), (width, 0))
    return both


def _images_below(folder):
    """Without the hidden ones, as in training."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in data.IMAGE_SUFFIXES]
    return [folder / path for path in sorted(paths) if not any(part.startswith(".") for part in path.parts)]


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
    logits = dropout_logits(task.model, image, passes, seed=config.train.seed, batch_size=config.eval.batch_size)
    probabilities = F.softmax(logits, axis=-1).numpy()
    return probabilities.mean(axis=0), probabilities.std(axis=0, ddof=1), disagreement(logits)


def _check_passes(config, passes):
    if passes < 2:
        raise UserError(f"{passes} pass with dropout has no spread: give 2 or more")
    if config.drop_rate == config.proj_drop_rate == 0:
        raise UserError("model.drop_rate is 0, so that passes would not differ: set for example model.drop_rate=0.1")
