"""Classify an image with an exported model, and time it: paddle.inference, numpy and Pillow, no model code.

python tools/export.py -c CONFIG --weights FILE --output exported
python examples/inference.py exported cat.jpg
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import paddle.inference
from PIL import Image, ImageOps

WARM_UP, REPEATS = 3, 20  # runs before the clock starts, and with it


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="of tools/export.py")
    arguments.add_argument("image")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--batch", type=int, default=16, help="images at once for the throughput (default 16)")
    options = arguments.parse_args()

    description = json.loads((options.folder / "description.json").read_text())
    run = load_model(options.folder, description, options.threads)
    images = read_image(options.image, description)
    probabilities = softmax(run(images)[0])
    for label in np.argsort(-probabilities)[:5]:
        print(f"{probabilities[label]:.4f}  {description['class_names'][label]}")
    print(f"latency     {1000 * seconds(run, images):.1f} ms for one image, the median of {REPEATS} runs")
    batch = np.repeat(images, options.batch, axis=0)
    print(f"throughput  {options.batch / seconds(run, batch):.1f} images/s, {options.batch} at once, {options.threads} threads")


def load_model(folder, description, threads):
    """A function from images float32 [N, 3, S, S] to logits [N, classes]."""
    config = paddle.inference.Config(str(folder / description["program"]), str(folder / description["parameters"]))
    config.disable_glog_info()
    config.enable_mkldnn()  # oneDNN, 1.4 times faster on a CPU; for a GPU: config.enable_use_gpu(1000, 0) instead
    config.set_cpu_math_library_num_threads(threads)
    predictor = paddle.inference.create_predictor(config)
    images_handle = predictor.get_input_handle(predictor.get_input_names()[0])
    logits_handle = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(images):
        images_handle.copy_from_cpu(images)
        predictor.run()
        return logits_handle.copy_to_cpu()

    return run


def read_image(path, description):
    """An image file as the model wants it, float32 [1, 3, S, S]; see "feed" in description.json."""
    size = description["image_size"]
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;16"):  # 16 bits of grey, which Pillow itself would make white from 255 on
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    if image.has_transparency_data:  # seen on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    mean, std = np.float32(description["mean"]), np.float32(description["std"])
    pixels = (np.asarray(image, dtype="float32") / 255 - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def seconds(run, images):
    """The median duration of `run(images)`."""
    durations = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        run(images)
        durations.append(time.perf_counter() - start)
    return np.median(durations[WARM_UP:])


if __name__ == "__main__":
    main()
