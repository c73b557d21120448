"""One rank's measurement in Paddle for speed.py: the config's real data, and the code that trains and evaluates.

python benchmarks/speed_paddle.py SPECIFICATION.json FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed_worker
from rdrop_paddle import command_line, load_config


def main():
    import paddle

    from rdrop_paddle import ranks
    from rdrop_paddle.tasks import build_task
    from rdrop_paddle.training import engine
    from rdrop_paddle.training.trainer import Trainer

    chosen = speed_worker.specification()
    config = load_config(chosen["config"], chosen["overrides"])
    rank, _ = ranks.start()
    task = build_task(config)
    if chosen["weights"] is not None:
        task.load_weights(chosen["weights"])
    _ = task.model  # some tasks make theirs on first use, which is no part of an evaluation
    trainer = None if chosen["evaluation"] else Trainer(task, config)

    def evaluation():
        score = engine.evaluate(task, config.eval.split)
        return score.get(config.unit, task.size(config.eval.split)), 0.0  # a score tells what is not counted in samples

    def update():
        micro_batches, reading = trainer.read()
        trainer.step(micro_batches)
        return trainer.fetch(sys.argv[2])["positions"], reading  # waits for the device

    ranks.wait_for_all()
    ceiling = speed_worker.fastest_product(paddle.ones)
    once = evaluation if chosen["evaluation"] else update
    speed_worker.report(once, rank=rank, ceiling=ceiling)
    return 0


if __name__ == "__main__":
    command_line.run(main)
