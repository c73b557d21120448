"""Evaluate weights; the last line is the task's leading score, such as `accuracy 0.9348 (9348/10000) target 0.9329 PASS`.

    python tools/eval.py -c configs/vit_ti16_cifar100_rdrop.yaml --weights output/vit_ti16_cifar100_rdrop/best.safetensors
    python -m paddle.distributed.launch --nproc_per_node 2 tools/eval.py -c CONFIG --weights FILE --predictions predictions.csv

Exit status: 0 when the score is as good as eval.target, or there is none; 1 when not; 2 for bad usage, config, data or weights.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import command_line, console, load_config, tasks
from rdrop_paddle.durability import files


def main():
    arguments = command_line.config_parser(__doc__)
    command_line.add_weights(arguments)
    arguments.add_argument("--json", metavar="FILE", help="write the result there too")
    answers = "write the answer for each sample there: classes of images as CSV, translations and summaries as lines"
    arguments.add_argument("--predictions", "--hypotheses", metavar="FILE", help=answers)
    options = arguments.parse_args()
    config = load_config(options.config, options.override)
    kept = [options.config, options.weights]
    for option, path, other in (("--json", options.json, options.predictions), ("--predictions", options.predictions, None)):
        if path:  # not after minutes of evaluation
            command_line.check_writable(option, path, [*kept, other])

    console.say("loading Paddle")
    from rdrop_paddle import ranks
    from rdrop_paddle.training import engine

    rank, _ = ranks.start()
    task, report = tasks.trained(config, options.weights, sha256=options.sha256, ema=options.ema)
    if rank == 0:
        print(report, flush=True)
    console.say(f"evaluating {task.size(config.eval.split):,} samples")
    task = task.recording() if options.predictions else task
    score = engine.evaluate(task, config.eval.split)
    if options.predictions:
        with files.writing(options.predictions):
            task.write(options.predictions, config.eval.split)
    target, measure = config.eval.target, config.measure
    passed = target is None or measure.reaches(score[measure.name], target)
    if rank > 0:
        return 0  # the launcher hands rank 0's status on
    verdict = "" if target is None else f" target {target:.{measure.decimals}f} {'PASS' if passed else 'FAIL'}"
    if options.json:
        result = dict(score, split=config.eval.split, target=target, passed=passed, weights=options.weights)
        with files.writing(options.json):
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    print(f"{task.in_words(score)}{verdict}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    command_line.run(main)
