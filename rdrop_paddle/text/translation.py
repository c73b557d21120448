"""Translation as the engine sees it, see training/engine.py: model, batches, loss, counts and scores."""

import contextlib
import functools
import math
from pathlib import Path
from typing import List, NamedTuple, Optional

import numpy as np
import paddle

from .. import ranks
from ..config import data_root
from ..console import say
from ..durability import files
from ..errors import UserError
from ..fused_linear_loss import fused_linear_cross_entropy
from ..layers import attention_backend
from ..training.criterion import FusedLinearCriterion
from ..weights.loading import find_weights
from . import batches, metrics, translation_weights
from .corpora import read_split
from .learned_tokens import tokens_of_run
from .parallel import Pairs, fingerprint
from .sizes import with_numbers
from .tokens import END, PADDING, train_tokens
from .transformer import Transformer
from .translate import search, translate

SHOWN = 3  # sentences that VisualDL shows


class Encoded(NamedTuple):
    """Pairs and their tokens, int32 arrays, END the last of each."""

    pairs: Pairs
    source: list
    target: list

    def lengths(self):
        """int64 [N]: the longer side of each pair, in tokens."""
        return np.asarray([max(map(len, sides)) for sides in zip(self.source, self.target)])


class Evaluator(NamedTuple):
    model: paddle.nn.Layer
    references: Optional[List[str]]  # of the split; None: weigh them by the model alone, without a translation of its own


class Translation:
    """Holds tokens, model and data by a TranslationConfig.

    The tokens are those of the weights that are loaded first, or else of the run, which learns them from its training text.
    Tokens and model are made on first use. `weight_report` tells how `model.weights` were loaded, or is None.
    """

    count_names = ("loss", "tokens", *metrics.COUNT_NAMES)

    def __init__(self, config):
        self.config = config
        self.rank, self.ranks = ranks.rank(), ranks.count()
        self.criterion = FusedLinearCriterion(config)
        layers = sum(getattr(with_numbers(config.model), f"{side}_layers") for side in ("encoder", "decoder"))
        if config.rdrop.shared_blocks >= layers:
            raise UserError(
                f"rdrop.shared_blocks {config.rdrop.shared_blocks} leaves none of the model's {layers} layers to differ in: "
                f"give at most {layers - 1}"
            )
        self._pairs, self._encoded = {}, {}
        self.hypotheses = {}  # {index: tokens of the translation} of the last evaluation, of this rank's sentences
        self.weight_report = None

    @functools.cached_property
    def tokens(self):
        config = self.config.data
        keys = ("vocabulary", "vocabulary_size", "lowercase", "moses", "source", "target")

        def origin():
            return fingerprint(self.pairs("train")), {key: getattr(config, key) for key in keys}

        def learn():
            say(f"learning {config.vocabulary_size:,} tokens from {len(self.pairs('train').source):,} pairs")
            options = dict(vocabulary_size=config.vocabulary_size, lowercase=config.lowercase, moses=config.moses)
            languages, joint = (config.source, config.target), config.vocabulary == "joint"
            return train_tokens(languages, self.pairs("train"), joint=joint, **options)

        return tokens_of_run(self.config, origin, learn)

    @functools.cached_property
    def model(self):
        config, (source, target) = with_numbers(self.config.model), self.tokens.sizes
        arguments = {name: value for name, value in vars(config).items() if name not in ("name", "weights")}
        return Transformer(source_vocabulary=source, target_vocabulary=target, padding=PADDING, **arguments)

    def load_initial_weights(self):
        """The weights `model.weights`, with their tokens; random ones when it is empty."""
        if self.config.model.weights:
            path = find_weights(self.config.model.weights, data_root())
            say(f"reading the weights {path}")
            self.weight_report = self.load_weights(path)

    def load_weights(self, path, sha256=None, ema=False):
        """Load trained weights and take over their tokens; the WeightReport. Errors: see translation_weights.py."""
        self.tokens = translation_weights.tokens_of(path, self.config)
        return translation_weights.load_weights(self.model, path, sha256=sha256, ema=ema)

    def read_splits(self):
        """Read every split that training will need: a fault in one ends the run now and not after training."""
        for split in dict.fromkeys(("train", "val", self.config.eval.split)):
            self.encoded(split)

    def pairs(self, split):
        """The Pairs of a split, read on first use; rank 0 goes first, because it may have to download them."""
        if split not in self._pairs:
            self._pairs[split] = ranks.first_before_others(lambda: read_split(self.config.data, split))
        return self._pairs[split]

    def encoded(self, split):
        """The Encoded of a split."""
        if split not in self._encoded:
            pairs = self.pairs(split)
            source, target = (list(self.tokens.ended(side, texts)) for side, texts in enumerate(pairs))
            self._encoded[split] = self._fitting(Encoded(pairs, source, target), split)
        return self._encoded[split]

    def _fitting(self, encoded, split):
        """Without what the model has no positions for: such pairs of the training text, the ends of such sentences else."""
        limit = self.config.model.max_length
        long = np.flatnonzero(encoded.lengths() > limit)
        if not len(long):
            return encoded
        done = "left out" if split == "train" else "cut"
        say(f"{len(long):,} pairs of {split} are longer than model.max_length {limit} tokens and {done}")
        if split == "train":
            fits = sorted({*range(len(encoded.source))} - {*long.tolist()})
            return Encoded(encoded.pairs.take(fits), *([side[n] for n in fits] for side in encoded[1:]))
        return Encoded(encoded.pairs, *([_cut(ids, limit) for ids in side] for side in encoded[1:]))

    def size(self, split):
        """How many pairs a split has."""
        return len(self.encoded(split).source)

    def belongings(self):
        """{"tokenizer": the tokens, "model": settings that the weights need}, see translation_weights.py."""
        return translation_weights.belongings(self.tokens, self.config)

    def batches(self, split, first_update=1):
        """Micro-batches of this rank: source tokens [N, S], first tokens of the target [N, T], labels [N, T], indices [N].

        "train" gives them without end, beginning with those of update `first_update`; another split once, each pair on one
        rank, in batches that do not depend on the number of ranks.
        """
        encoded, config = self.encoded(split), self.config
        lengths, shares = encoded.lengths(), dict(rank=self.rank, ranks=self.ranks)
        if split == "train":
            settings = dict(accumulation=config.train.accumulation, seed=config.train.seed, first_update=first_update)
            order = batches.training_order(lengths, config.data.max_tokens, **settings, **shares)
        else:
            order = batches.evaluation_order(lengths, config.decode.max_tokens, split=split, **shares)
        return (self._batch(encoded, indices) for indices in order)

    def _batch(self, encoded, indices):
        source, labels = ([side[n] for n in indices] for side in encoded[1:])
        target_in = [np.roll(ids, 1) for ids in labels]  # as fairseq does, a target begins with the end of the one before
        arrays = [batches.padded(side, PADDING) for side in (source, target_in, labels)]
        return [paddle.to_tensor(array) for array in (*arrays, np.asarray(indices))]

    def loss_terms(self, model, batch, passes):
        """(loss, cross entropy, KL, tokens), see training/criterion.py."""
        source, target_in, labels, _ = batch
        settings = dict(shared_blocks=self.config.rdrop.shared_blocks, recompute=self.config.train.recompute)
        hidden = model(source, target_in, passes, project=False, **settings)
        return self.criterion(hidden, self.model.output_weight, labels, labels == PADDING)

    def for_evaluation(self, split, selecting):
        """A context that gives an Evaluator, which translates unless selecting by perplexity needs none of it."""
        self.hypotheses = {}
        searches = not selecting or self.config.selection is self.config.measure
        return contextlib.nullcontext(Evaluator(self.model, self.pairs(split).target if searches else None))

    def evaluate(self, evaluator, batch):
        """float64 [len(count_names)]: negative log-likelihood in nats, tokens, and what scores of translations follow from."""
        source, target_in, labels, indices = batch
        mask = labels == PADDING
        hidden = evaluator.model(source, target_in, project=False)
        tokens = int((~mask).sum())
        loss = tokens * float(fused_linear_cross_entropy(hidden, evaluator.model.output_weight, labels, mask))
        counts = np.zeros(len(metrics.COUNT_NAMES))
        if evaluator.references is not None:
            for index, found in zip(indices.tolist(), search(evaluator.model, source, self.config.decode)):
                self.hypotheses[index] = found[0].tokens if found else ()
                translation = self.tokens.decode(1, self.hypotheses[index])
                counts += metrics.counts(translation, evaluator.references[index], self.config.data.target)
        return paddle.to_tensor([loss, tokens, *counts], "float64")

    def score(self, counts):
        """{name: number} of summed counts: of translations first where there are some, then perplexity in nats per token."""
        loss, tokens, *of_translations = counts
        weighed = {"perplexity": math.exp(loss / tokens), "tokens": int(tokens)}
        return (metrics.scores(of_translations) if any(of_translations) else {}) | weighed

    def in_words(self, score):
        others = ", ".join(f"{name} {value:.2f}" for name, value in score.items() if name not in ("BLEU", "tokens"))
        return f"BLEU {score['BLEU']:.2f} ({metrics.signature()}; {others})"

    def data_state(self, updates):
        """What the batches after so many updates follow from, of JSON values: the data, their tokens, and the epoch."""
        epoch, done = divmod(updates, self.updates_of_epoch)
        return {**self._fingerprints, "epoch": epoch, "updates_of_epoch": done}

    @functools.cached_property
    def updates_of_epoch(self):
        config = self.config
        return batches.updates_of_epoch(self.encoded("train").lengths(), config.data.max_tokens, config.train.accumulation)

    @functools.cached_property
    def _fingerprints(self):
        return {split: fingerprint(self.pairs(split)) for split in ("train", "val")} | {"tokens": self.tokens.fingerprint()}

    def describe(self):
        """{what: words} for the start of a run."""
        train, config = self.config.train, with_numbers(self.config.model)
        precision = "float32" if train.amp == "off" else train.amp_dtype
        width = config.embed_dim // config.num_heads
        source, target = self.tokens.sizes
        return {
            "initial weights": f"{self.weight_report or 'random, or those of the checkpoint'}",
            "attention": f"{attention_backend(width, precision)} in {precision}, heads of width {width}",
            "tokens": f"{source:,}, joint" if self.tokens.joint else f"{source:,} and {target:,}",
            "global batch": f"{train.accumulation} micro-batches of at most {self.config.data.max_tokens:,} tokens",
            "training pairs": f"{self.size('train'):,}, {self.updates_of_epoch} updates an epoch, {train.steps} updates in all",
        }

    def examples(self):
        """The first training pairs as the model is given them, in pieces: {tag: text}."""
        encoded = self.encoded("train")
        pieces = [[" ".join(self.tokens.pieces(side, ids)) for ids in encoded[1 + side][:SHOWN]] for side in (0, 1)]
        return {f"train/pair {n}": f"{source} → {target}" for n, (source, target) in enumerate(zip(*pieces))}

    def answers(self):
        """Translations of the first sentences that are held out, beside source and reference: {tag: text}."""
        encoded = self.encoded("val")
        source = paddle.to_tensor(batches.padded(encoded.source[:SHOWN], PADDING))
        found = [
            self.tokens.decode(1, best[0].tokens) if best else "" for best in search(self.model, source, self.config.decode)
        ]
        shown = zip(*(texts[:SHOWN] for texts in encoded.pairs), found)
        return {f"val/translation {n}": f"{s}  \n→ {t}  \n(reference: {r})" for n, (s, r, t) in enumerate(shown)}

    def translate(self, lines, progress=None):
        """The translations of lines of text, see translate.py; the model should be in evaluation mode."""
        return translate(self.model, self.tokens, lines, self.config.decode, progress=progress)

    def recording(self):
        return self

    def write(self, path, split):
        """Write the translations of the last evaluation, which was of `split`, a line each; all ranks must call it."""
        width = ranks.most(max(map(len, self.hypotheses.values()), default=0) + 1)
        held = np.zeros([self.size(split), width], "int64")
        for index, tokens in self.hypotheses.items():
            held[index, : len(tokens) + 1] = [*tokens, END]
        held = ranks.sum_over_all(paddle.to_tensor(held)).numpy()  # each sentence was translated on one rank only
        if self.rank == 0:
            lines = [self.tokens.decode(1, row[: list(row).index(END)]) for row in held]
            files.replace_file(Path(path), "".join(f"{line}\n" for line in lines).encode())


def _cut(ids, limit):
    return ids if len(ids) <= limit else np.append(ids[: limit - 1], np.int32(END))
