"""Logits, loss and gradients of a small ViT as a CPU computes them, for check_device.py to hold a device against.

python benchmarks/device_golden.py      writes benchmarks/device_golden.json anew; say in the commit why
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import command_line

GOLDEN = Path(__file__).with_suffix(".json")
# heads are 64 wide, as those of ViT-B/16: by the width Paddle chooses the attention
SETTINGS = dict(image_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, mlp_ratio=2.0, classes=10)
IMAGES = 8
ENTRIES = 8  # of each gradient that are compared, beside its norm
SCALE = 1024.0  # of the loss, and out of the gradients again: float16 has no smaller numbers than 6e-8


def figures(dtype="float32"):
    """{name: array} of logits, loss and gradients on the device that Paddle is set to; float16 and bfloat16 are train.amp=O1.

    The two passes are of different images without dropout, so that nothing is random and the divergence is large.
    """
    import paddle

    from rdrop_paddle.loss import RDropLoss
    from rdrop_paddle.vision.model import VisionTransformer

    model, rng = VisionTransformer(**SETTINGS), np.random.default_rng(0)
    for _, parameter in sorted(model.named_parameters()):
        spread = 0.3 if len(parameter.shape) == 1 else np.prod(parameter.shape[:-1]) ** -0.5
        parameter.set_value(rng.normal(0, spread, parameter.shape).astype("float32"))
    size = SETTINGS["image_size"]
    images = paddle.to_tensor(rng.uniform(-1, 1, [2 * IMAGES, 3, size, size]).astype("float32"))
    labels = paddle.to_tensor(rng.integers(0, SETTINGS["classes"], IMAGES))
    with paddle.amp.auto_cast(enable=dtype != "float32", dtype="bfloat16" if dtype == "float32" else dtype, level="O1"):
        logits = model(images)
    loss = RDropLoss(1.0, "batchmean")(*logits.chunk(2), labels)
    (loss * SCALE).backward()
    found = {"logits": logits.astype("float32").numpy(), "loss": loss.numpy()}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.astype("float32").numpy() / SCALE
        entries = gradient.ravel()[np.linspace(0, gradient.size - 1, ENTRIES).astype(int)]
        found[f"gradient of {name}"] = np.append(entries, [np.abs(gradient).max(), np.linalg.norm(gradient)])
    return found


def worst_difference(found, golden):
    """(the largest over all names of max|a - b| / max|b|, its name)."""
    differences = {}
    for name, values in golden.items():
        a, b = np.ravel(found[name]).astype("float64"), np.asarray(values)
        scale = np.full_like(b, np.abs(b).max())
        if name.startswith("gradient"):  # entries, the largest of all entries, the norm
            scale[:-1] = b[-2]
        differences[name] = float(np.max(np.abs(a - b) / scale))  # NaN stays NaN
    name = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    return differences[name], name


def read():
    """{name: list} of a CPU, as the file has them."""
    return json.loads(GOLDEN.read_text())["figures"]


def main():
    import paddle

    paddle.set_device("cpu")
    rounded = {name: [float(f"{value:.8g}") for value in np.ravel(array)] for name, array in figures().items()}
    made = {"made_by": "python benchmarks/device_golden.py", "paddle": paddle.__version__, "figures": rounded}
    GOLDEN.write_text(json.dumps(made, indent=0) + "\n")
    print(f"wrote {GOLDEN}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
