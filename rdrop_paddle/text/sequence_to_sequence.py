"""What tasks from one text to another share, as the engine sees them, see training/engine.py: model, batches, loss, search.

translation.py and summarisation.py say of what data and tokens, and what answers are scored by.
"""

import contextlib
import functools
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import paddle

from .. import ranks
from ..console import say
from ..durability import files
from ..fused_linear_loss import fused_linear_cross_entropy
from ..layers import attention_in_words
from . import batches, transformer_weights
from .generation import generate, search
from .learned_tokens import tokens_of_run
from .parallel import Pairs, fingerprint
from .perplexity import perplexity
from .token_task import TokenTask
from .transformer import Transformer
from .transformer_sizes import with_numbers

SHOWN = 3  # texts that VisualDL shows


class Encoded(NamedTuple):
    """Pairs and their tokens, int32 arrays, the end the last of each."""

    pairs: Pairs
    source: list
    target: list

    def lengths(self):
        """int64 [N]: the longer side of each pair, in tokens."""
        return np.asarray([max(map(len, sides)) for sides in zip(self.source, self.target)])


class Evaluator(NamedTuple):
    model: paddle.nn.Layer
    references: Optional[list]  # of the split; None: weigh the targets by the model alone, without an answer of its own


class SequenceToSequence(TokenTask):
    """Holds tokens, model and data by the Config of a task, which is a subclass of it with

    - `read(split)` -> the Pairs of a split
    - `token_settings`, the keys of the section `data` that tokens follow from, and `learn()` -> Tokens of the training pairs
    - `references(split)` -> what each answer is scored by; `answer_counts(answer, reference)` -> numbers that add up, which
      `answer_count_names` names; `answer_scores(counts)` -> {name: number}, the leading one first; `signature()`, in words
      what they depend on
    - `answer`, what an answer is called, and `cuts_sources`, whether a source that is too long is one to train on when cut

    The tokens are those of the weights that are loaded first, or else of the run, which learns them from its training text.
    Tokens and model are made on first use.
    """

    def __init__(self, config):
        numbers = with_numbers(config.model)
        super().__init__(config, layers=numbers.encoder_layers + numbers.decoder_layers)
        self._pairs, self._encoded = {}, {}
        self.hypotheses = {}  # {index: tokens of the answer} of the last evaluation, of this rank's sources

    @property
    def count_names(self):
        return ("loss", "tokens", *self.answer_count_names)

    @functools.cached_property
    def tokens(self):
        def origin():
            return fingerprint(self.pairs("train")), {key: getattr(self.config.data, key) for key in self.token_settings}

        def learn():
            count = self.config.data.vocabulary_size
            say(f"learning {count:,} tokens from {len(self.pairs('train').source):,} pairs")
            return self.learn()

        return tokens_of_run(self.config, origin, learn)

    @functools.cached_property
    def model(self):
        config, (source, target) = with_numbers(self.config.model), self.tokens.sizes
        arguments = {name: value for name, value in vars(config).items() if name not in ("name", "weights")}
        return Transformer(source_vocabulary=source, target_vocabulary=target, padding=self.tokens.padding, **arguments)

    def load_weights(self, path, sha256=None, ema=False):
        """Load trained weights and take over their tokens; the WeightReport. Errors: see transformer_weights.py."""
        self.tokens = transformer_weights.tokens_of(path, self.config)
        return transformer_weights.load_weights(self.model, path, self.config, sha256=sha256, ema=ema)

    def pairs(self, split):
        """The Pairs of a split, read on first use; rank 0 goes first, because it may have to download them."""
        if split not in self._pairs:
            self._pairs[split] = ranks.first_before_others(lambda: self.read(split))
        return self._pairs[split]

    def encoded(self, split):
        """The Encoded of a split."""
        if split not in self._encoded:
            pairs = self.pairs(split)
            source, target = (list(self.tokens.ended(side, texts)) for side, texts in enumerate(pairs))
            self._encoded[split] = self._fitting(Encoded(pairs, source, target), split)
        return self._encoded[split]

    def _fitting(self, encoded, split):
        """Without what the model has no positions for: such pairs of the training text, the ends of such texts else."""
        limit = self.config.model.max_length
        over = [n for n, ids in enumerate(encoded.source) if len(ids) > limit] if self.cuts_sources else []
        if over:
            say(f"{len(over):,} of {len(encoded.source):,} sources of {split} cut to model.max_length {limit} tokens")
            encoded = Encoded(encoded.pairs, [self._cut(ids, limit) for ids in encoded.source], encoded.target)
        long = np.flatnonzero(encoded.lengths() > limit)
        if not len(long):
            return encoded
        done = "left out" if split == "train" else "cut"
        say(f"{len(long):,} pairs of {split} are longer than model.max_length {limit} tokens and {done}")
        if split == "train":
            fits = sorted({*range(len(encoded.source))} - {*long.tolist()})
            return Encoded(encoded.pairs.take(fits), *([side[n] for n in fits] for side in encoded[1:]))
        return Encoded(encoded.pairs, *([self._cut(ids, limit) for ids in side] for side in encoded[1:]))

    def _cut(self, ids, limit):
        return ids if len(ids) <= limit else np.append(ids[: limit - 1], np.int32(self.tokens.end))

    def lengths(self, split):
        """int64 [N]: the longer side of each pair of a split, in tokens."""
        return self.encoded(split).lengths()

    def fingerprint(self, split):
        return fingerprint(self.pairs(split))

    def size(self, split):
        """How many pairs a split has."""
        return len(self.encoded(split).source)

    def belongings(self):
        """{"tokenizer": the tokens, "model": settings that the weights need}, see transformer_weights.py."""
        return transformer_weights.belongings(self.tokens, self.config)

    def batches(self, split, first_update=1):
        """Micro-batches of this rank: source tokens [N, S], first tokens of the target [N, T], labels [N, T], indices [N].

        "train" gives them without end, beginning with those of update `first_update`; another split once, each pair on one
        rank, in batches that do not depend on the number of ranks.
        """
        encoded, shares = self.encoded(split), dict(first_update=first_update, rank=self.rank, ranks=self.ranks)
        order = batches.order(encoded.lengths(), split, self.config, self.config.decode.max_tokens, **shares)
        return (self._batch(encoded, indices) for indices in order)

    def _batch(self, encoded, indices):
        source, labels = ([side[n] for n in indices] for side in encoded[1:])
        target_in = [np.roll(ids, 1) for ids in labels]  # as fairseq does, a target begins with the end of the one before
        arrays = [batches.padded(side, self.tokens.padding) for side in (source, target_in, labels)]
        return [paddle.to_tensor(array) for array in (*arrays, np.asarray(indices))]

    def loss_terms(self, model, batch, passes):
        """(loss, cross entropy, KL, tokens), see training/criterion.py."""
        source, target_in, labels, _ = batch
        settings = dict(shared_blocks=self.config.rdrop.shared_blocks, recompute=self.config.train.recompute)
        hidden = model(source, target_in, passes, project=False, **settings)
        return self.criterion(hidden, self.model.output_weight, labels, labels == self.tokens.padding)

    def for_evaluation(self, split, selecting):
        """A context that gives an Evaluator, which answers unless selecting by perplexity needs none of it."""
        self.hypotheses = {}
        searches = not selecting or self.config.selection is self.config.measure
        return contextlib.nullcontext(Evaluator(self.model, self.references(split) if searches else None))

    def evaluate(self, evaluator, batch):
        """float64 [len(count_names)]: negative log-likelihood in nats, tokens, and what scores of answers follow from."""
        source, target_in, labels, indices = batch
        mask = labels == self.tokens.padding
        hidden = evaluator.model(source, target_in, project=False)
        tokens = int((~mask).sum())
        loss = tokens * float(fused_linear_cross_entropy(hidden, evaluator.model.output_weight, labels, mask))
        counts = np.zeros(len(self.answer_count_names))
        if evaluator.references is not None:
            for index, found in zip(indices.tolist(), self._search(source)):
                self.hypotheses[index] = found[0].tokens if found else ()
                counts += self.answer_counts(self._text(self.hypotheses[index]), evaluator.references[index])
        return paddle.to_tensor([loss, tokens, *counts], "float64")

    def score(self, counts):
        """{name: number} of summed counts: of answers first where there are some, then perplexity in nats per token."""
        loss, tokens, *of_answers = counts
        weighed = {"perplexity": perplexity(loss, tokens), "tokens": int(tokens)}
        return (self.answer_scores(of_answers) if any(of_answers) else {}) | weighed

    def in_words(self, score):
        leading = self.config.measure.name
        others = ", ".join(f"{name} {value:.2f}" for name, value in score.items() if name not in (leading, "tokens"))
        return f"{leading} {score[leading]:.2f} ({self.signature()}; {others})"

    def describe(self):
        """{what: words} for the start of a run."""
        train, config = self.config.train, with_numbers(self.config.model)
        width = config.embed_dim // config.num_heads
        source, target = self.tokens.sizes
        return {
            "initial weights": f"{self.weight_report or 'random, or those of the checkpoint'}",
            "attention": attention_in_words(width, train),
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
        """Answers to the first sources that are held out, beside source and reference: {tag: text}."""
        encoded = self.encoded("val")
        source = paddle.to_tensor(batches.padded(encoded.source[:SHOWN], self.tokens.padding))
        found = [self._text(best[0].tokens) if best else "" for best in self._search(source)]
        shown = zip(*(texts[:SHOWN] for texts in encoded.pairs), found)
        return {f"val/{self.answer} {n}": f"{s}  \n→ {t}  \n(reference: {r})" for n, (s, r, t) in enumerate(shown)}

    def generate(self, lines, progress=None):
        """The answers to lines of text, see generation.py; the model should be in evaluation mode."""
        return generate(self.model, self.tokens, lines, self.config.decode, progress=progress)

    def _search(self, source):
        return search(self.model, source, self.config.decode, end=self.tokens.end, begin=self.tokens.begin)

    def _text(self, ids):
        return self.tokens.decode_line(1, ids)

    def recording(self):
        return self

    def write(self, path, split):
        """Write the answers of the last evaluation, which was of `split`, a line each; all ranks must call it."""
        width = ranks.most(max(map(len, self.hypotheses.values()), default=0) + 1)
        held = np.zeros([self.size(split), width], "int64")
        for index, tokens in self.hypotheses.items():
            held[index, : len(tokens) + 1] = [*tokens, self.tokens.end]
        held = ranks.sum_over_all(paddle.to_tensor(held)).numpy()  # each source was answered on one rank only
        if self.rank == 0:
            lines = [self._text(row[: list(row).index(self.tokens.end)]) for row in held]
            files.replace_file(Path(path), "".join(f"{line}\n" for line in lines).encode())
