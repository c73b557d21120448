"""One check of device_check.py in a process of its own, which writes what it found to RESULT.json.

python benchmarks/device_worker.py RESULT.json describe | golden DTYPE | updates DTYPE CONFIG key=value ... | export FOLDER
"""

import hashlib
import json
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import device_golden
from rdrop_paddle import command_line, load_config

UPDATES = 3
HEAD_WIDTH = device_golden.SETTINGS["embed_dim"] // device_golden.SETTINGS["num_heads"]


def main():
    result, what, *arguments = sys.argv[1:]
    from rdrop_paddle import ranks

    rank, _ = ranks.start()
    found = dict(describe=describe, golden=golden, updates=updates, export=export)[what](*arguments)
    if rank == 0:
        Path(result).write_text(json.dumps(found))
    return 0


def describe():
    """What the others depend on; `half` is the 16-bit type that the device computes in, or None."""
    import paddle

    on_gpu = paddle.get_device() != "cpu"
    supported = {"bfloat16": paddle.amp.is_bfloat16_supported, "float16": paddle.amp.is_float16_supported} if on_gpu else {}
    words = [f"Python {platform.python_version()}", f"Paddle {paddle.__version__}"]
    if on_gpu:
        device = paddle.device.cuda
        memory = device.get_device_properties().total_memory / 1e9
        capability = ".".join(map(str, device.get_device_capability()))
        words += [f"CUDA {paddle.version.cuda()}", f"cuDNN {paddle.version.cudnn()}", device.get_device_name()]
        words += [f"{memory:.0f} GB", f"compute capability {capability}"]
    else:
        words += [f"{platform.system()} {platform.machine()}", command_line.cpu_settings()]
    half = next((dtype for dtype, is_supported in supported.items() if is_supported()), None)
    return dict(on_gpu=on_gpu, cards=paddle.device.cuda.device_count() if on_gpu else 0, half=half, words=", ".join(words))


def golden(dtype):
    """How far the device is from a CPU, and the attention that it took."""
    from rdrop_paddle.layers import attention_backend

    difference, name = device_golden.worst_difference(device_golden.figures(dtype), device_golden.read())
    return dict(difference=difference, name=name, attention=attention_backend(HEAD_WIDTH, dtype))


def updates(dtype, config, *overrides):
    """UPDATES updates of a config: losses and gradients' norms, seconds, GB at most, and a digest of the weights at the end."""
    import paddle

    from rdrop_paddle.durability.checkpoint import model_arrays
    from rdrop_paddle.tasks import build_task
    from rdrop_paddle.training.trainer import Trainer
    from rdrop_paddle.training.update_figures import peak_memory

    precision = [] if dtype == "float32" else ["train.amp=O1", f"train.amp_dtype={dtype}"]
    config = load_config(config, [*overrides, *precision])
    paddle.seed(config.train.seed)
    trainer, losses, norms, seconds = Trainer(build_task(config), config), [], [], []
    for _ in range(UPDATES):
        start = time.perf_counter()
        trainer.step(trainer.read()[0])
        means = trainer.fetch(Path())  # waits for the device
        seconds.append(time.perf_counter() - start)
        losses.append(means["loss"])
        norms.append(means["grad_norm"])
    digest = hashlib.sha256(b"".join(array.tobytes() for array in model_arrays(trainer.task.model).values())).hexdigest()
    figures = dict(losses=losses, norms=norms, seconds=seconds, peak_memory=peak_memory())
    return figures | dict(digest=digest, samples=config.train.batch_size, ranks=trainer.ranks)


def export(folder):
    """The checks of an ONNX export of a small model with random weights."""
    import paddle

    from rdrop_paddle import load_weights
    from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
    from rdrop_paddle.tasks import build_task
    from rdrop_paddle.training.export import check_request
    from rdrop_paddle.vision.export import export as export_classifier

    folder = Path(folder)
    check_request(folder / "exported", onnx=True)
    paddle.set_device("cpu")  # as tools/export.py does
    task = build_task(load_config("configs/digits_quickstart.yaml"))
    save_weights(model_arrays(task.model), folder / "weights.safetensors")
    report = load_weights(task.model, folder / "weights.safetensors")
    checks = export_classifier(task, folder / "exported", report, onnx=True)
    return dict(passed=all(check.passed for check in checks), difference=max(check.difference for check in checks))


if __name__ == "__main__":
    command_line.run(main)
