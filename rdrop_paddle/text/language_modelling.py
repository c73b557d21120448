"""Language modelling as the engine sees it, see training/engine.py: model, batches, loss, counts and scores."""

import contextlib
import functools
from typing import NamedTuple

import numpy as np
import paddle

from .. import ranks
from ..console import say
from ..errors import UserError
from ..fused_linear_loss import fused_linear_cross_entropy
from ..layers import attention_in_words
from . import batches, claims, language_model_weights
from .continuation import continue_text
from .language_model import LanguageModel
from .language_model_sizes import with_numbers
from .language_model_weights import LANGUAGE
from .learned_tokens import tokens_of_run
from .perplexity import perplexity
from .plain_text import fingerprint, read_split
from .token_stream import IGNORED, arrays_of, stream_of, windows_of
from .token_task import TokenTask
from .tokens import train_tokens, word_tokens

SHOWN = 3  # texts that VisualDL shows


class Evaluator(NamedTuple):
    model: paddle.nn.Layer
    words: np.ndarray  # int64 [N]: how many end in what each window scores


class LanguageModelling(TokenTask):
    """Holds tokens, model and data by a LanguageModellingConfig.

    The tokens are those of the weights that are loaded first, or else of the run, which learns them from its training text.
    Tokens and model are made on first use.
    """

    count_names = ("loss", "tokens", "words", "unknown")

    def __init__(self, config):
        super().__init__(config, layers=with_numbers(config.model).layers)
        self._lines, self._streams, self._windows = {}, {}, {}

    @functools.cached_property
    def tokens(self):
        config = self.config.data
        keys = ("break_mode", "vocabulary", "vocabulary_size", "min_count", "lowercase")

        def origin():
            return fingerprint(self.lines("train")), {key: getattr(config, key) for key in keys}

        def learn():
            lines, options = self.lines("train"), dict(vocabulary_size=config.vocabulary_size, lowercase=config.lowercase)
            say(f"learning tokens from {len(lines):,} lines")
            if config.vocabulary == "words":
                return word_tokens(LANGUAGE, lines, min_count=config.min_count, **options)
            return train_tokens([LANGUAGE], [lines], joint=True, **options)

        return tokens_of_run(self.config, origin, learn, sides=1)

    @functools.cached_property
    def model(self):
        config = with_numbers(self.config.model)
        arguments = {name: value for name, value in vars(config).items() if name not in ("name", "weights")}
        return LanguageModel(vocabulary=self.tokens.sizes[0], **arguments)

    def load_weights(self, path, sha256=None, ema=False):
        """Load trained weights and take over their tokens; the WeightReport. Errors: see language_model_weights.py."""
        claims.check_task(path, self.config.task)
        self.tokens = language_model_weights.tokens_of(path)
        return language_model_weights.load_weights(self.model, path, self.config, sha256=sha256, ema=ema)

    def lines(self, split):
        """The lines of a split, read on first use."""
        if split not in self._lines:
            self._lines[split] = ranks.first_before_others(lambda: read_split(self.config.data, split))
        return self._lines[split]

    def stream(self, split):
        """The Stream of a split."""
        if split not in self._streams:
            lines = self.lines(split)
            self._streams[split] = stream_of(lines, self.tokens.ended(0, lines), self.tokens.end)
        return self._streams[split]

    def windows(self, split):
        """The Windows of a split: those to train on do not overlap, others have eval.context."""
        if split not in self._windows:
            config, context = self.config.data, 0 if split == "train" else self.config.eval.context
            settings = dict(by_line=config.break_mode == "line", context=context)
            self._windows[split] = windows_of(self.stream(split), config.tokens_per_sample, **settings)
        return self._windows[split]

    def lengths(self, split):
        """int64 [N]: of each window of a split, in tokens."""
        return self.windows(split).lengths()

    def size(self, split):
        """How many windows a split has."""
        return len(self.windows(split).starts)

    def fingerprint(self, split):
        return fingerprint(self.lines(split))

    def belongings(self):
        """{"tokenizer": the tokens, "model": settings that the weights need}, see language_model_weights.py."""
        return language_model_weights.belongings(self.tokens, self.config)

    def batches(self, split, first_update=1):
        """Micro-batches of this rank: tokens [N, T], labels [N, T], which are IGNORED where nothing is scored, indices [N].

        "train" gives them without end, beginning with those of update `first_update`; another split once, each window on one
        rank, in batches that do not depend on the number of ranks.
        """
        shares = dict(first_update=first_update, rank=self.rank, ranks=self.ranks)
        order = batches.order(self.lengths(split), split, self.config, self.config.data.max_tokens, **shares)
        return (self._batch(split, indices) for indices in order)

    def _batch(self, split, indices):
        arrays = arrays_of(self.stream(split), self.windows(split), indices)
        return [paddle.to_tensor(array) for array in (*arrays, np.asarray(indices))]

    def loss_terms(self, model, batch, passes):
        """(loss, cross entropy, KL, tokens), see training/criterion.py."""
        tokens, labels, _ = batch
        settings = dict(shared_blocks=self.config.rdrop.shared_blocks, recompute=self.config.train.recompute)
        hidden = model(tokens, passes, project=False, **settings)
        return self.criterion(hidden, self.model.output_weight, labels, labels == IGNORED)

    def for_evaluation(self, split, selecting):
        """A context that gives an Evaluator."""
        return contextlib.nullcontext(Evaluator(self.model, self.stream(split).words_of(self.windows(split))))

    def evaluate(self, evaluator, batch):
        """float64 [len(count_names)]: negative log-likelihood in nats; the tokens, words and unknown tokens that it is of."""
        tokens, labels, indices = batch
        mask = labels == IGNORED
        hidden = evaluator.model(tokens, project=False)
        count = int((~mask).sum())
        loss = count * float(fused_linear_cross_entropy(hidden, evaluator.model.output_weight, labels, mask))
        unknown = int(((labels == self.tokens.unknown) & ~mask).sum())  # byte-level tokens know no such
        return paddle.to_tensor([loss, count, int(evaluator.words[indices.numpy()].sum()), unknown], "float64")

    def score(self, counts):
        """{name: number} of summed counts: perplexity per token first, then per word, in which each line's end is one."""
        loss, tokens, words, unknown = counts
        perplexities = {"perplexity": perplexity(loss, tokens), "word_perplexity": perplexity(loss, words)}
        return perplexities | {"tokens": int(tokens), "words": int(words), "unknown": int(unknown)}

    def in_words(self, score):
        counted = f"{score['tokens']:,} tokens, {score['unknown']:,} of them unknown, context {self.config.eval.context}"
        return f"perplexity {score['perplexity']:.2f} per token ({score['word_perplexity']:.2f} per word; {counted})"

    def describe(self):
        """{what: words} for the start of a run."""
        train, model, data = self.config.train, with_numbers(self.config.model), self.config.data
        width = model.embed_dim // model.num_heads
        stream = self.stream("train")
        unknown = (stream.tokens == self.tokens.unknown).mean()
        samples = "a line each" if data.break_mode == "line" else "across lines"
        return {
            "initial weights": f"{self.weight_report or 'random, or those of the checkpoint'}",
            "attention": attention_in_words(width, train),
            "tokens": f"{self.tokens.sizes[0]:,} in the vocabulary; {unknown:.2%} of the training text are unknown",
            "global batch": f"{train.accumulation} micro-batches of at most {data.max_tokens:,} tokens",
            "training text": f"{len(stream):,} tokens, {self.size('train'):,} samples of at most {data.tokens_per_sample}, "
            f"{samples}; {self.updates_of_epoch} updates an epoch, {train.steps} updates in all",
        }

    def examples(self):
        """The first training samples as the model is given them, in pieces: {tag: text}."""
        tokens, windows = self.stream("train").tokens, self.windows("train")
        shown = [tokens[start:end] for start, _, end in zip(*(bounds[:SHOWN] for bounds in windows))]
        return {f"train/sample {n}": " ".join(self.tokens.pieces(0, ids)) for n, ids in enumerate(shown)}

    def answers(self):
        """The first held-out lines of several words and how the model goes on from their halves: {tag: text}."""
        lines = [line.split() for line in self.lines("val") if len(line.split()) > 3][:SHOWN]
        halves = [" ".join(words[: len(words) // 2]) for words in lines]
        shown = zip(halves, self.continue_text(halves), lines)
        return {
            f"val/continuation {n}": f"{half} **{found.continuation}**  \n(text: {' '.join(words)})"
            for n, (half, found, words) in enumerate(shown)
        }

    def continue_text(self, prompts, progress=None):
        """How texts go on, see continuation.py; the model should be in evaluation mode."""
        return continue_text(self.model, self.tokens, prompts, self.config.decode, progress=progress)

    def recording(self):
        raise UserError("a language model gives no answers to write: leave --predictions out; tools/predict.py continues texts")
