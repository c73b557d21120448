"""A task of sequences for the engine: micro-batches of unequal numbers of positions, a pad mask, a score that is better lower.

    python -m paddle.distributed.launch --nproc_per_node 3 tests/training/made_task.py FOLDER

Rank 0 writes FOLDER/RANKS.npz: every parameter's gradient of the first update, its figures, and the perplexity of "val".
"""

import sys
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rdrop_paddle import command_line
from rdrop_paddle.config import Config, Measure

WORDS, WIDTH = 11, 8
# of each micro-batch of an update, the lengths of its sequences; five of them, of 22, 3, 9, 40 and 7 positions
LENGTHS = [[9, 8, 5], [3], [4, 4, 1], [20, 11, 9], [5, 2]]


class MadeConfig(Config):
    unit: ClassVar[str] = "tokens"
    measure: ClassVar[Measure] = Measure("perplexity", higher_is_better=False, decimals=2)

    def hyper_parameters(self):
        return {"alpha": self.rdrop.alpha}  # it has no section model


def made_config(*overrides):
    """A MadeConfig with the shared sections of the defaults and `overrides`."""
    from rdrop_paddle import load_config

    shared = load_config(None, ["train.steps=6", "train.warmup_steps=2", "train.lr=0.5", *overrides])
    config = MadeConfig(**{field.name: getattr(shared, field.name) for field in fields(Config)} | dict(model=None, data=None))
    config.train.batch_size = config.train.micro_batch_size = None
    config.train.accumulation = len(LENGTHS)
    return config


class MadeTask:
    """Predicts each word's successor in a circle, from the word alone, past dropout."""

    count_names = ("loss", "positions")

    def __init__(self, config):
        import paddle

        from rdrop_paddle import ranks
        from rdrop_paddle.training.criterion import Criterion

        self.config, self.criterion = config, Criterion(config)
        self.rank, self.ranks = ranks.rank(), ranks.count()
        self.model = paddle.nn.Sequential(paddle.nn.Embedding(WORDS, WIDTH), DropoutByContent(), paddle.nn.Linear(WIDTH, WORDS))
        for number, parameter in enumerate(self.model.parameters()):
            parameter.set_value(rng(number).normal(0, 0.4, parameter.shape).astype("float32"))

    def batches(self, split, first_update=1):
        """[words int64 [N, L], labels [N, L], pad mask [N, L], indices [N]] of this rank, which takes turns with the others."""
        import paddle

        update = first_update
        while True:
            for number in range(self.rank, len(LENGTHS), self.ranks):
                lengths = LENGTHS[number]
                words = rng(update if split == "train" else 0, number).integers(0, WORDS, [len(lengths), max(lengths)])
                pad_mask = [[position >= length for position in range(max(lengths))] for length in lengths]
                labels = (words + 1) % WORDS
                yield [paddle.to_tensor(array) for array in (words, labels, pad_mask, list(range(len(lengths))))]
            update += 1
            if split != "train":
                return

    def loss_terms(self, model, batch, passes):
        import paddle

        words, labels, pad_mask, _ = batch
        return self.criterion(model(paddle.concat([words] * passes)), labels, pad_mask)

    def for_evaluation(self, split, selecting):
        import contextlib

        return contextlib.nullcontext(self.model)

    def evaluate(self, model, batch):
        import paddle

        from rdrop_paddle.loss import cross_entropy

        words, labels, pad_mask, _ = batch
        positions = (~pad_mask).astype("float64").sum()
        return paddle.stack([cross_entropy(model(words), labels, pad_mask).astype("float64") * positions, positions])

    def score(self, counts):
        import math

        loss, positions = map(float, counts)
        return {"perplexity": math.exp(loss / positions), "tokens": round(positions)}

    def in_words(self, score):
        return f"perplexity {score['perplexity']:.2f}"

    def size(self, split):
        return sum(map(len, LENGTHS))

    def data_state(self, updates):
        return {"made": updates}

    def belongings(self):
        return {"words": WORDS}

    def describe(self):
        return {"global batch": f"{len(LENGTHS)} micro-batches of unequal size"}

    def examples(self):
        return {"val/example": "3 → 4"}

    def answers(self):
        return {}


def DropoutByContent():
    """A layer that drops by what it is given, so that its masks do not depend on ranks; the two passes get different ones."""
    import numpy as np
    import paddle

    class Layer(paddle.nn.Layer):
        def forward(self, x):
            if not self.training:
                return x
            passes = np.split(x.numpy(), 2) if len(x) % 2 == 0 else [x.numpy()]
            kept = [np.sin(1e4 * values + which) > -0.5 for which, values in enumerate(passes)]
            return x * paddle.to_tensor(np.concatenate(kept).astype("float32") * 1.5)

    return Layer()


def rng(*key):
    import numpy as np

    return np.random.default_rng(key)


def main():
    import numpy as np

    from rdrop_paddle import ranks

    rank, count = ranks.start()
    arrays = outcome()
    if rank == 0:
        np.savez(Path(sys.argv[1]) / f"{count}.npz", **arrays)
    return 0


def outcome():
    """{name: array}: the gradient of the first update, its figures, and the score of "val" before it."""
    from rdrop_paddle import evaluate
    from rdrop_paddle.training.trainer import Trainer
    from rdrop_paddle.training.update_figures import FIGURES

    config = made_config("rdrop.alpha=2.0", "train.clip_norm=null")
    trainer = Trainer(MadeTask(config), config)
    score = evaluate(trainer.task, "val")
    figures = dict(zip(FIGURES, trainer.backward(trainer.read()[0], update=1).tolist()))
    gradients = {name: parameter.grad.numpy() for name, parameter in trainer.task.model.named_parameters()}
    return gradients | figures | score


if __name__ == "__main__":
    command_line.run(main)
