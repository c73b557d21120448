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
    from rdrop_paddle.training import engine
    from rdrop_paddle.training.trainer import Trainer
    from rdrop_paddle.vision.task import ImageClassification

    chosen = speed_worker.specification()
    config = load_config(chosen["config"], [*chosen["overrides"], "model.weights=''"])
    rank, _ = ranks.start()
    task = ImageClassification(config)
    images = task.size(config.eval.split) if chosen["evaluation"] else config.train.batch_size
    trainer = None if chosen["evaluation"] else Trainer(task, config)

    def evaluation():
        engine.evaluate(task, config.eval.split)
        return 0.0

    def update():
        micro_batches, reading = trainer.read()
        trainer.step(micro_batches)
        trainer.fetch(sys.argv[2])  # waits for the device
        return reading

    ranks.wait_for_all()
    ceiling = speed_worker.fastest_product(paddle.ones)
    once = evaluation if chosen["evaluation"] else update
    speed_worker.report(once, rank=rank, images=images, ceiling=ceiling)
    return 0


if __name__ == "__main__":
    command_line.run(main)
