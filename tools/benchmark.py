"""Measure the speed and memory of training or evaluation, alone or against torch or other settings.

python tools/benchmark.py -c configs/vit_ti16_cifar100_rdrop.yaml --ranks 2
python tools/benchmark.py -c configs/vit_ti16_cifar100_rdrop.yaml --ranks 2 --against torch --json speed.json
python tools/benchmark.py -c configs/vit_ti16_cifar100_rdrop.yaml --ranks 2 --against rdrop.passes=1 rdrop.alpha=0
python tools/benchmark.py -c configs/vit_ti16_cifar100_rdrop.yaml --ranks 2 --against torch ranks=2 --evaluation
python tools/benchmark.py -c configs/multi30k_deen_rdrop.yaml --ranks 2 --against torch ranks=2 --evaluation --weights FILE

Training takes its updates from the config's real data; evaluation reads eval.split, all of it, and counts from the first batch.
The two sides take turns on the same machine; keep it quiet. torch needs requirements-dev.txt.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line


def main():
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("--ranks", type=command_line.positive, default=1, help="Paddle processes; they share the cores")
    arguments.add_argument("--threads", type=command_line.positive, help="of each (default: its share of the cores)")
    arguments.add_argument(
        "--against", nargs="+", metavar="WHAT", help="torch, key=value, ranks=N, threads=N of the other side"
    )
    arguments.add_argument("--evaluation", action="store_true", help="measure evaluation instead of training")
    arguments.add_argument("--weights", metavar="FILE", help="trained ones to evaluate: the time of a search depends on them")
    arguments.add_argument("--rounds", type=command_line.positive, default=5, help="measurements of each side (default 5)")
    arguments.add_argument("--repeats", type=command_line.positive, help="updates (6) or evaluations (1) in one measurement")
    arguments.add_argument("--torch-micro-batch", type=command_line.positive, help="default: the whole global batch")
    arguments.add_argument("--json", metavar="FILE", help="write everything that was measured there")
    options = arguments.parse_args()
    if options.json:
        command_line.check_writable("--json", options.json)
    # not imported, nor is Paddle: this process would share their memory with the side that is measured
    if "torch" in (options.against or []) and importlib.util.find_spec("torch") is None:
        raise UserError("torch is not installed: pip install -r requirements-dev.txt")

    from benchmarks import speed

    side = speed.Side(
        config=options.config,
        overrides=tuple(options.override),
        evaluation=options.evaluation,
        weights=options.weights,
        ranks=options.ranks,
        threads=options.threads,
        torch_micro_batch=options.torch_micro_batch,
        warmup=0 if options.evaluation else 1,
        repeats=options.repeats or (1 if options.evaluation else 6),
    )
    sides = [side] if options.against is None else [side, side.against(options.against)]
    speed.compare(sides, options.rounds, options.json)
    return 0


if __name__ == "__main__":
    command_line.run(main)
