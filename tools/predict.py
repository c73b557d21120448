"""Name what is in images: the likeliest classes with their probabilities.

python tools/predict.py -c configs/digits_quickstart.yaml --weights output/digits_quickstart/best.safetensors digit.png scans/
python tools/predict.py -c CONFIG --weights FILE photos/ --top 3 --json -
python tools/predict.py -c CONFIG --weights FILE cat.jpg --passes 20 --attention attention.png

With --passes N dropout stays on for N passes (Monte-Carlo dropout): probabilities are their mean, with their standard
deviation, and the disagreement is the mean symmetric KL divergence between two passes, which R-Drop trains to be small.

Exit status: 0; 1 when some image cannot be read, which is named and skipped; 2 for bad usage, config or weights.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line, load_config
from rdrop_paddle.durability import files


def main():
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders that are searched for them")
    arguments.add_argument("--weights", required=True, help="weight file or folder, or a bare name under RDROP_DATA")
    arguments.add_argument("--sha256", help="what the weight file's must be")
    arguments.add_argument("--ema", action="store_true", help="take the average of the weights that the file holds beside them")
    arguments.add_argument("--top", type=command_line.positive, default=5, metavar="N", help="classes an image (default 5)")
    arguments.add_argument("--passes", type=command_line.positive, metavar="N", help="passes with dropout, 2 or more")
    arguments.add_argument("--json", metavar="FILE", help="write the result there too; - prints it instead of the table")
    arguments.add_argument("--attention", metavar="PICTURE", help="draw what the model attends to in the first image")
    options = arguments.parse_args()
    config = load_config(options.config, options.override)

    from rdrop_paddle.config import data_root
    from rdrop_paddle.vision import attention_rollout, prediction
    from rdrop_paddle.vision.image_files import open_image
    from rdrop_paddle.vision.task import ImageClassification
    from rdrop_paddle.weights.loading import find_weights

    if options.attention and Path(options.attention).suffix.lower() not in attention_rollout.SUFFIXES:
        raise UserError(f"--attention {options.attention}: give a name that ends in {', '.join(attention_rollout.SUFFIXES)}")
    paths = prediction.find_images(options.images)
    task = ImageClassification(config)
    report = task.load_weights(find_weights(options.weights, data_root()), sha256=options.sha256, ema=options.ema)
    class_names = task.class_names()
    for option, path in (("--json", options.json), ("--attention", options.attention)):
        if path and path != "-":  # not after minutes of work
            command_line.check_writable(option, path)
    print(report, file=sys.stderr, flush=True)
    found = []
    for answer in prediction.predict(task, paths, options.passes):
        found.append(answer)
        if answer.error:
            print(f"error: {answer.error}", file=sys.stderr, flush=True)
        elif options.json != "-":
            print(prediction.table(answer, class_names, options.top), flush=True)
    if options.json:
        images = [prediction.as_json(answer, class_names, options.top) for answer in found]
        text = json.dumps({"weights": options.weights, "passes": options.passes, "images": images}, indent=2) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            with files.writing(options.json):
                Path(options.json).write_text(text)
    first = next((answer.path for answer in found if not answer.error), None)
    if options.attention and first:
        shares = attention_rollout.rollout(task.model, prediction.model_input(task, first))
        with files.writing(options.attention):
            attention_rollout.overlay(open_image(first), shares).save(options.attention)
    return 1 if any(answer.error for answer in found) else 0


if __name__ == "__main__":
    command_line.run(main)
