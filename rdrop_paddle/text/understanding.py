"""Understanding as the engine sees it, see training/engine.py: model, batches, loss, counts and scores of labelled texts."""

import contextlib
import functools
import hashlib
import json
from typing import List, NamedTuple, Optional

import numpy as np
import paddle

from .. import ranks
from ..config import accumulation, data_root
from ..console import reported, say
from ..durability import checkpoint
from ..errors import UserError
from ..layers import attention_in_words
from ..reporting.runlog import run_folder
from ..training import sample_order
from ..training.criterion import Criterion, RegressionCriterion
from ..weights.belongings import TOKENS
from ..weights.loading import find_weights
from . import classification_metrics as metrics
from . import encoder_weights, label_predictions, understanding_claims
from .batches import padded
from .classify import classify
from .encoder import TransformerEncoder
from .encoder_sizes import with_numbers
from .labelled import fingerprint, read_split
from .wordpiece import read_wordpiece

AT_ONCE = 10_000  # inputs that are encoded together
SHOWN = 3  # examples that VisualDL shows


class Examples(NamedTuple):
    """Inputs and what they are labelled with; `classes` are their names, None where the labels are numbers."""

    ids: List[np.ndarray]  # int32 each, the tokens with the special ones
    types: List[np.ndarray]  # int32 each, which of the texts a token is of
    labels: np.ndarray  # [N], int64 classes or float32 numbers
    classes: Optional[List[str]]


class Understanding:
    """Holds tokens, model and data by an UnderstandingConfig.

    Tokens and model are made on first use: the tokens are those of the weights that are loaded first or of the run, and so are
    the classes. `weight_report` tells how `model.weights` were loaded, or is None; `kept_names` are the names of the classes
    that were kept with the weights of the model's head, or None.
    """

    def __init__(self, config):
        self.config = config
        self.rank, self.ranks = ranks.rank(), ranks.count()
        self.criterion = (RegressionCriterion if config.data.labels_are_numbers else Criterion)(config)
        self._numbers = with_numbers(config.model)
        config.rdrop.check_shared(self._numbers.layers)
        self._labelled, self._examples = {}, {}
        self._evaluated, self._answers = None, []  # the split of the last evaluation; (indices, logits) of each batch of it
        self.weight_report = self.kept_names = None

    @functools.cached_property
    def tokens(self):
        begun = run_folder(self.config)
        if checkpoint.latest(begun) and (begun / f"{TOKENS}.json").exists():  # a run that is resumed has them
            return read_wordpiece(begun)
        place = self.config.model.tokenizer or self.config.model.weights
        if not place:
            raise UserError("model.tokenizer is empty and so is model.weights: give the folder of tokenizer.json or vocab.txt")
        return read_wordpiece(find_weights(place, data_root()))

    @functools.cached_property
    def model(self):
        numbers, names = vars(self._numbers), self.class_names()
        arguments = {name: value for name, value in numbers.items() if name not in ("name", "weights", "tokenizer")}
        sizes = dict(vocabulary=self.tokens.size, padding=self.tokens.padding, classes=1 if names is None else len(names))
        return TransformerEncoder(**sizes, **arguments)

    def class_names(self):
        """The names of the classes, those kept with the weights or else the data's; None where labels are numbers."""
        if self.config.data.labels_are_numbers:
            return None
        return self.kept_names or self.labelled("train").classes

    def load_initial_weights(self):
        """The pretrained weights of `model.weights` with a new head; random weights when it is empty."""
        if self.config.model.weights:
            path = find_weights(self.config.model.weights, data_root())
            say(f"reading the weights {path}")
            self.weight_report = encoder_weights.load_weights(self.model, path, reset_head=True)

    def load_weights(self, path, sha256=None, ema=False):
        """Load trained weights, and take over their tokens and classes; the WeightReport.

        Errors: see understanding_claims.py and encoder_weights.py.
        """
        understanding_claims.check(path, self.config.data)
        self.kept_names = understanding_claims.class_names(path, self.config.data)
        self.tokens = read_wordpiece(path)
        return encoder_weights.load_weights(self.model, path, sha256=sha256, ema=ema)

    def read_splits(self):
        """Read every split that training will need: a fault in one ends the run now and not after training."""
        for split in dict.fromkeys(("train", "val", self.config.eval.split)):
            self.examples_of(split)

    def labelled(self, split):
        """The Labelled of a split, read on first use."""
        if split not in self._labelled:
            train = self._labelled.get("train")
            self._labelled[split] = read_split(self.config.data, split, self.kept_names or (train and train.classes))
        return self._labelled[split]

    def examples_of(self, split):
        """The Examples of a split."""
        if split not in self._examples:
            labelled = self.labelled(split)
            ids, types = self.encode(labelled.texts, labelled.pairs, split)
            if labelled.classes is None:
                labels = np.asarray(labelled.labels, "float32")
            else:
                number_of = {name: number for number, name in enumerate(labelled.classes)}
                labels = np.asarray([number_of[label] for label in labelled.labels], "int64")
            self._examples[split] = Examples(ids, types, labels, labelled.classes)
        return self._examples[split]

    def encode(self, texts, pairs, where):
        """(tokens, types) of inputs, lists of int32 arrays; says how many of `where` were cut to data.max_length."""
        limit, ids, types, cut = self.config.data.max_length, [], [], 0
        for start in range(0, len(texts), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found = self.tokens.encode(texts[part], pairs and pairs[part], max_length=limit)
            ids += [np.asarray(row, "int32") for row in found.ids]  # a list of millions of integers would fill the memory
            types += [np.asarray(row, "int32") for row in found.types]
            cut += found.truncated
        if cut:
            say(f"{cut:,} of {len(texts):,} inputs of {where} are longer than data.max_length {limit} tokens and cut")
        return ids, types

    def size(self, split):
        """How many examples a split has."""
        return len(self.labelled(split).labels)

    def belongings(self):
        """{name: JSON value} of the tokens, the classes and the settings that the weights need, see understanding_claims.py."""
        return understanding_claims.belongings(self.tokens, self.model, self.class_names(), self.config.data)

    def batches(self, split, first_update=1):
        """Batches of this rank: tokens [N, L], types [N, L], labels [N], indices [N]; L is the longest input's of the batch.

        "train" gives micro-batches without end, beginning with those of update `first_update`; another split once, each
        example on one rank, in batches of about one length that do not depend on the number of ranks.
        """
        examples, config = self.examples_of(split), self.config
        lengths = np.asarray(list(map(len, examples.ids)))
        count, shares = len(lengths), dict(rank=self.rank, ranks=self.ranks)
        if split == "train":
            sizes = dict(batch_size=config.train.batch_size, micro_batch_size=config.train.micro_batch_size, lengths=lengths)
            order = sample_order.training_order(count, config.train.seed, first_update=first_update, **sizes, **shares)
        else:
            longest_first = np.argsort(-lengths, kind="stable")  # so that the ranks end together and the time is known early
            parts = sample_order.evaluation_order(count, batch_size=config.eval.batch_size, **shares)
            order = [(epoch, longest_first[part]) for epoch, part in parts]
            order = reported(order, f"evaluating {split}: batch", len(order))
        return (self._batch(examples, indices) for _, indices in order)

    def _batch(self, examples, indices):
        inputs = self.inputs([examples.ids[n] for n in indices], [examples.types[n] for n in indices])
        return [*inputs, paddle.to_tensor(examples.labels[indices]), paddle.to_tensor(indices)]

    def inputs(self, ids, types):
        """What the model takes, tokens and types [N, L] as int64 tensors."""
        return [paddle.to_tensor(padded(rows, filling)) for rows, filling in ((ids, self.tokens.padding), (types, 0))]

    def loss_terms(self, model, batch, passes):
        """(loss, cross entropy, KL, examples), of numbers with squares in their places, see training/criterion.py."""
        tokens, types, labels, _ = batch
        settings = dict(shared_blocks=self.config.rdrop.shared_blocks, recompute=self.config.train.recompute)
        return self.criterion(model(tokens, types, passes, **settings), labels)

    def for_evaluation(self, split, selecting):
        """A context that gives the model; what is counted from then on is of `split`."""
        self._evaluated, self._answers = split, []
        return contextlib.nullcontext(self.model)

    @property
    def count_names(self):
        """Of classes the cells of a confusion matrix; of numbers two vectors with a place for each example, see `placed`."""
        if names := self.class_names():
            return [f"{label} as {predicted}" for label in names for predicted in names]
        return [f"{what} {n}" for what in ("prediction", "times") for n in range(self.size(self._evaluated))]

    def evaluate(self, model, batch):
        """float64 [len(count_names)]: integers of classes, and predictions in their places of numbers."""
        tokens, types, labels, indices = batch
        logits, indices = model(tokens, types).numpy(), indices.numpy()
        self._answers.append((indices, logits))
        if self.class_names() is None:
            counts = metrics.placed(indices, logits[:, 0], self.size(self._evaluated))
        else:
            counts = metrics.confusion(labels.numpy(), logits.argmax(axis=1), logits.shape[1])
        return paddle.to_tensor(counts.ravel(), "float64")

    def score(self, counts):
        """{name: number} of the summed counts of the split that is evaluated: GLUE's scores for the data."""
        if self.class_names() is None:
            found = metrics.gathered(np.reshape(counts, [2, -1])), self.examples_of(self._evaluated).labels
            pearson, spearman = metrics.pearson(*found), metrics.spearman(*found)
            return {"Pearson": pearson, "Spearman": spearman, "mean": (pearson + spearman) / 2}
        side = len(self.class_names())
        matrix = np.reshape(counts, [side, side]).astype("int64")
        shares = {"accuracy": metrics.accuracy(matrix), "correct": int(np.trace(matrix)), "total": int(matrix.sum())}
        if self.config.data.name == "cola":
            return {"Matthews": metrics.matthews(matrix)} | shares
        return shares | ({"F1": metrics.f1(matrix)} if self.config.data.name in ("mrpc", "qqp") else {})

    def in_words(self, score):
        leading, *others = (name for name in score if name not in ("correct", "total"))
        beside = [f"{score['correct']}/{score['total']}"] if leading == "accuracy" else []
        beside += [f"{name} {score[name]:.4f}" for name in others]
        return f"{leading} {score[leading]:.4f} ({'; '.join(beside)})"

    def data_state(self, updates):
        """What the batches after so many updates follow from, of JSON values: the data, their tokens, and the epoch."""
        epoch, done = divmod(updates, self.size("train") // self.config.train.batch_size)
        return {**self._fingerprints, "epoch": epoch, "updates_of_epoch": done}

    @functools.cached_property
    def _fingerprints(self):
        tokens = hashlib.sha256(json.dumps(self.tokens.to_json()).encode()).hexdigest()
        return {split: fingerprint(self.labelled(split)) for split in ("train", "val")} | {"tokens": tokens}

    def describe(self):
        """{what: words} for the start of a run."""
        train, count = self.config.train, self.size("train")
        width = self._numbers.embed_dim // self._numbers.num_heads
        in_micro_batches = f"{train.micro_batch_size} (micro) x {self.ranks} (ranks) x {accumulation(train, self.ranks)}"
        return {
            "initial weights": f"{self.weight_report or 'random, or those of the checkpoint'}",
            "attention": attention_in_words(width, train),
            "tokens": f"{self.tokens.size:,}, inputs of at most {self.config.data.max_length}",
            "labels": "numbers" if (names := self.class_names()) is None else ", ".join(names),
            "global batch": f"{train.batch_size} = {in_micro_batches} (accumulation)",
            "examples": f"{count:,}, {count // train.batch_size} updates an epoch, {train.steps} updates in all",
        }

    def examples(self):
        """The first training examples: {tag: text}."""
        labelled = self.labelled("train").take(range(min(SHOWN, self.size("train"))))
        texts = labelled.texts if labelled.pairs is None else [f"{a}  \n{b}" for a, b in zip(labelled.texts, labelled.pairs)]
        return {f"train/example {n}": f"{t}  \n→ {label}" for n, (t, label) in enumerate(zip(texts, labelled.labels))}

    def answers(self):
        """{}: the scores of the held-out part say what single answers would."""
        return {}

    def classify(self, texts):
        """{class: probability}, or the number, for each text or pair (text, second text); None for what is empty.

        Raises:
            UserError: these are no texts, or no pairs.
        """
        paired = self.config.data.columns[1] is not None
        single = isinstance(texts, str)  # which would be taken for its letters
        texts = [texts] if single else list(texts)
        fits = _is_pair if paired else lambda text: isinstance(text, str)
        if single or not all(map(fits, texts)):
            raise UserError(f"give a list of {'pairs (text, second text)' if paired else 'texts'}, each of them strings")
        first, second = ([pair[side] for pair in texts] for side in (0, 1)) if paired else (texts, None)
        names, found = self.class_names(), classify(self, first, second)
        named = (one and (one.values.item() if names is None else dict(zip(names, one.values.tolist()))) for one in found)
        return list(named)

    def recording(self):
        return self

    def write(self, path, split):
        """Write the answers of the last evaluation, which was of `split`, a line of CSV each; all ranks must call it."""
        examples = self.examples_of(split)
        held = np.zeros([len(examples.labels), self.model.head.weight.shape[1]])
        for indices, logits in self._answers:
            held[indices] = logits
        held = ranks.sum_over_all(paddle.to_tensor(held)).numpy()  # each example was seen on one rank only
        if self.rank == 0:
            label_predictions.write(path, examples.labels, held, examples.classes)


def _is_pair(texts):
    return isinstance(texts, (tuple, list)) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
