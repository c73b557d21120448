"""Text to tokens and back by `tokenizers`: byte-pair encoding or whole words of the training text, kept with the model.

Everything that text goes through on its way into a model and out of it is in a Tokens and in its file, so that a model is
used as it was trained, wherever its training text may be. Text comes back as it was but for this: it is in Unicode's form NFC;
space of any kind and length, and the sign \u2581 that stands for it among the tokens, is one space, and none at the ends;
characters that the training text has not are lost, as are capitals where it was asked; the Moses tokenizer has a spacing of
its own around punctuation. GPT-2's byte-level tokens, of its release, lose nothing. What looks like a special token in a text
is text; where tokens are whole words, it is that token.
"""

import hashlib
import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..console import say
from ..errors import UserError

FILE = "tokenizer.json"  # of a run folder
FORMAT = 1
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PADDING, BEGIN, END, UNKNOWN = range(len(SPECIAL))
ENDS = (SPECIAL[END], "<|endoftext|>")  # the latter is GPT-2's
AT_ONCE = 10_000  # texts that are encoded together


class Tokens:
    """The tokens of the sides of a task, of one vocabulary where `joint`.

    Args:
        languages: what the sides are called: source and target, such as ("de", "en"), or the only one.
        tokenizers: a `tokenizers.Tokenizer` for each; the same one twice where they share a vocabulary.
        moses: words are those of the Moses tokenizer, whose spacing is undone on the way out.
    """

    def __init__(self, languages, tokenizers, *, moses=False):
        self.languages = tuple(languages)
        self.tokenizers = tuple(tokenizers)
        self.joint = tokenizers[0] is tokenizers[-1]
        self.moses = moses
        self._moses = [Moses(language) if moses else None for language in languages]
        for tokenizer in self.tokenizers:  # their files do not keep it
            tokenizer.encode_special_tokens = True

    @property
    def sizes(self):
        """Tokens in the vocabulary of each side."""
        return tuple(tokenizer.get_vocab_size() for tokenizer in self.tokenizers)

    @property
    def end(self):
        """The token at the end of each text."""
        special = _special(self.tokenizers[-1])
        return next(special[name] for name in ENDS if name in special)

    @property
    def begin(self):
        """The tokens that each text begins with: one where the release of the tokens has it so, as BART's, and else none."""
        begun = _special(self.tokenizers[-1]).get(SPECIAL[BEGIN])
        return (begun,) if self._is_byte_level(-1) and begun is not None else ()

    @property
    def padding(self):
        """The token that fills up the shorter texts of a batch."""
        return _special(self.tokenizers[-1])[SPECIAL[PADDING]]

    @property
    def unknown(self):
        """The token that stands for what has none, or -1 where everything has one."""
        return _special(self.tokenizers[-1]).get(SPECIAL[UNKNOWN], -1)

    @property
    def wordless(self):
        """The tokens of the last side that say nothing, the end among them."""
        return sorted(_special(self.tokenizers[-1]).values())

    def encode(self, side, texts):
        """The tokens of each text without BEGIN and END, lists of integers; `side` 0 is the source, 1 the target."""
        if self.moses:
            texts = [self._moses[side].split(text) for text in texts]
        return [found.ids for found in self.tokenizers[side].encode_batch_fast(list(texts), add_special_tokens=False)]

    def say_unknown(self, texts):
        """Say how many of the texts, of the first side, have characters that no token stands for."""
        lost = [number for number, ids in enumerate(self.encode(0, texts), start=1) if self.unknown in ids]
        if lost:
            said = f"{len(lost):,} of {len(texts):,} texts have characters that the model does not know"
            say(f"{said}, the first is text {lost[0]:,}")

    def ended(self, side, texts):
        """The tokens of each text from `begin` to `end`, int32 arrays: millions of lists of integers would fill the memory."""
        begin, end = self.begin, self.end
        for start in range(0, len(texts), AT_ONCE):
            for ids in self.encode(side, texts[start : start + AT_ONCE]):
                yield np.asarray([*begin, *ids, end], "int32")

    def decode(self, side, ids):
        """The text of some tokens, of which special ones say nothing."""
        text = self.tokenizers[side].decode([int(number) for number in ids], skip_special_tokens=True)
        if self._is_byte_level(side):
            return text
        return self._moses[side].join(text) if self.moses else " ".join(text.split())

    def decode_line(self, side, ids):
        """As `decode`, with one space in the place of each space, be it the end of a line."""
        return " ".join(self.decode(side, ids).split())

    def _is_byte_level(self, side):
        return isinstance(self.tokenizers[side].decoder, decoders.ByteLevel)

    def pieces(self, side, ids):
        """What each token stands for."""
        return [self.tokenizers[side].id_to_token(int(number)) for number in ids]

    def fingerprint(self):
        """The sha256 of `to_json`."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self):
        """What `from_json` reads, as JSON values."""
        kept = self.tokenizers[:1] if self.joint else self.tokenizers
        settings = dict(format=FORMAT, languages=list(self.languages), moses=self.moses)
        return settings | dict(tokenizers=[json.loads(tokenizer.to_str()) for tokenizer in kept])

    @classmethod
    def read(cls, path, sides=2):
        """The Tokens of a file; arguments and errors as in `from_json`."""
        try:
            return cls.from_json(json.loads(Path(path).read_bytes()), path, sides)
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path} ({error}): mend it or move it away") from None

    @classmethod
    def from_json(cls, values, source, sides=2):
        """The Tokens that `to_json` gave of a task with so many `sides`; `source` names the file in messages.

        Raises:
            UserError: it is something else.
        """
        try:
            if values["format"] != FORMAT:
                raise UserError(f"{source}: format {values['format']}, and this version reads {FORMAT}")
            found = [Tokenizer.from_str(json.dumps(one)) for one in values["tokenizers"]]
            special = [_special(one) for one in found if not isinstance(one.decoder, decoders.ByteLevel)]  # that has its own
            if any(one != {name: number for number, name in enumerate(SPECIAL)} for one in special):
                raise UserError(f"{source}: the special tokens are not {', '.join(SPECIAL)}, which the model takes them for")
            languages = values["languages"]
            found = found * sides if len(found) == 1 else found
            if not len(languages) == len(found) == sides:
                raise ValueError(f"{len(found)} vocabularies of {len(languages)} languages, and there are {sides} here")
            return cls(languages, found, moses=values["moses"])
        except UserError:
            raise
        except Exception as error:  # the Rust side raises plain Exceptions
            raise UserError(f"{source} is no file of tokens as training writes it ({error})") from None


def train_tokens(languages, texts, *, vocabulary_size, joint, lowercase, moses=False):
    """Byte-pair encoding learned from `texts`, a list of lines for each of `languages`; the same text gives the same.

    Args:
        vocabulary_size: of a vocabulary, in tokens: fewer where the text is too short for so many, more where it has more
            characters.
        joint: one vocabulary for all.
        lowercase: whether capitals are lost on the way in.
        moses: split words by the Moses tokenizer first, as the published IWSLT14 recipe does.
    """
    if moses:
        texts = [list(map(Moses(language).split, lines)) for language, lines in zip(languages, texts)]
    parts = [[line for lines in texts for line in lines]] if joint else texts
    found = [_trained(lines, vocabulary_size, lowercase, moses) for lines in parts]
    return Tokens(languages, found * len(texts) if joint else found, moses=moses)


def word_tokens(language, lines, *, vocabulary_size, min_count, lowercase):
    """Tokens that are the words of `lines` as spaces part them, the most frequent ones first; any other word is unknown.

    Args:
        vocabulary_size: of the vocabulary, in tokens, with the special ones; None: all words.
        min_count: how often a word must occur.
    """
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = _normalizer(lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    counts = Counter()
    for line in lines:
        counts.update(tokenizer.normalizer.normalize_str(line).split())
    words = sorted((-count, word) for word, count in counts.items() if count >= min_count and word not in SPECIAL)
    known = [*SPECIAL, *(word for _, word in words)][:vocabulary_size]
    tokenizer.model = models.WordLevel({word: number for number, word in enumerate(known)}, unk_token=SPECIAL[UNKNOWN])
    tokenizer.add_special_tokens(list(SPECIAL))
    return Tokens([language], [tokenizer])


def _trained(lines, vocabulary_size, lowercase, moses):
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = _normalizer(lowercase)
    # a space belongs to the word behind it, so that joining the pieces gives the text again; Moses has split punctuation off
    words = [pre_tokenizers.Metaspace(), *([] if moses else [pre_tokenizers.Punctuation()])]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.Metaspace()
    settings = dict(vocab_size=vocabulary_size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(**settings))
    return tokenizer


def _special(tokenizer):
    return {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}


def _normalizer(lowercase):
    spaces = [normalizers.Replace(Regex(r"[\s\x1c-\x1f\u2581]+"), " "), normalizers.Strip()]
    letters = [*([normalizers.Lowercase()] if lowercase else []), normalizers.NFC()]
    return normalizers.Sequence([*letters, *spaces])


class Moses:
    """The Moses tokenizer of a language, by sacremoses, with its entities such as &apos; as in the official preparation."""

    def __init__(self, language):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sacremoses' regular expressions are of an older Python
            from sacremoses import MosesDetokenizer, MosesTokenizer

            self._tokenizer, self._detokenizer = MosesTokenizer(language), MosesDetokenizer(language)

    def split(self, text):
        return self._tokenizer.tokenize(text, return_str=True)

    def join(self, text):
        return self._detokenizer.detokenize(text.split())
