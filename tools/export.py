"""Export a model to Paddle's inference format, and to ONNX, and check that the files give the same logits as the model.

python tools/export.py -c configs/digits_quickstart.yaml --weights output/digits_quickstart/best.safetensors --output exported
python tools/export.py -c CONFIG --weights FILE --output FOLDER --onnx
python examples/inference.py exported digit.png

FOLDER must be new. Any number of images can be fed at once; FOLDER/description.json says how. --onnx needs two packages more:
pip install -r requirements-onnx.txt

Exit status: 0; 1 when the logits differ by more than the bound (no FOLDER is left then); 2 for bad usage, config or weights.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import command_line, load_config


def main():
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("--weights", required=True, help="weight file or folder, or a bare name under RDROP_DATA")
    arguments.add_argument("--sha256", help="what the weight file's must be")
    arguments.add_argument("--ema", action="store_true", help="take the average of the weights that the file holds beside them")
    arguments.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new folder for the exported files")
    arguments.add_argument("--onnx", action="store_true", help="write inference.onnx too")
    options = arguments.parse_args()
    config = load_config(options.config, options.override)

    import paddle

    from rdrop_paddle.config import data_root
    from rdrop_paddle.vision import export
    from rdrop_paddle.vision.task import ImageClassification
    from rdrop_paddle.weights.loading import find_weights

    export.check_request(options.output, options.onnx)
    paddle.set_device("cpu")  # what is compared must not depend on a card and its TF32
    task = ImageClassification(config)
    report = task.load_weights(find_weights(options.weights, data_root()), sha256=options.sha256, ema=options.ema)
    print(report, flush=True)
    checks = export.export(task, options.output, report, onnx=options.onnx)
    print("\n".join(map(str, checks)))
    if not all(check.passed for check in checks):
        print("error: the exported model gives other logits, so it was not kept", file=sys.stderr)
        return 1
    print(f"wrote {options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
