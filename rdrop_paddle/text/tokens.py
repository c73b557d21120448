"""Words to tokens and back: byte-pair encoding by `tokenizers`, trained on the training text and kept with the model.

Everything that text goes through on its way into a model and out of it is in a Tokens and in its file, so that a model is
used as it was trained, wherever its training text may be. Text comes back as it was but for this: it is in Unicode's form NFC;
space of any kind and length, and the sign \u2581 that stands for it among the tokens, is one space, and none at the ends;
characters that the training text has not are lost, as are capitals where it was asked; the Moses tokenizer has a spacing of
its own around punctuation. What looks like a special token in a text is text.
"""

import hashlib
import json
import warnings
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..errors import UserError

FILE = "tokenizer.json"  # of a run folder
FORMAT = 1
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PADDING, BEGIN, END, UNKNOWN = range(len(SPECIAL))


class Tokens:
    """The tokens of two languages, of one vocabulary where `joint`.

    Args:
        languages: (source, target), such as ("de", "en").
        tokenizers: a `tokenizers.Tokenizer` for each; the same one twice where they share a vocabulary.
        moses: words are those of the Moses tokenizer, whose spacing is undone on the way out.
    """

    def __init__(self, languages, tokenizers, *, moses=False):
        self.languages = tuple(languages)
        self.tokenizers = tuple(tokenizers)
        self.joint = tokenizers[0] is tokenizers[1]
        self.moses = moses
        self._moses = [Moses(language) if moses else None for language in languages]
        for tokenizer in self.tokenizers:  # their files do not keep it
            tokenizer.encode_special_tokens = True

    @property
    def sizes(self):
        """Tokens in the vocabulary of the source and of the target."""
        return tuple(tokenizer.get_vocab_size() for tokenizer in self.tokenizers)

    def encode(self, side, texts):
        """The tokens of each text without BEGIN and END, lists of integers; `side` 0 is the source, 1 the target."""
        if self.moses:
            texts = [self._moses[side].split(text) for text in texts]
        return [found.ids for found in self.tokenizers[side].encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, side, ids):
        """The text of some tokens, of which special ones say nothing."""
        text = self.tokenizers[side].decode([int(number) for number in ids], skip_special_tokens=True)
        return self._moses[side].join(text) if self.moses else " ".join(text.split())

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
    def read(cls, path):
        """The Tokens of a file; errors as in `from_json`."""
        try:
            return cls.from_json(json.loads(Path(path).read_bytes()), path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path} ({error}): mend it or move it away") from None

    @classmethod
    def from_json(cls, values, source):
        """The Tokens that `to_json` gave; `source` names the file in messages.

        Raises:
            UserError: it is something else.
        """
        try:
            if values["format"] != FORMAT:
                raise UserError(f"{source}: format {values['format']}, and this version reads {FORMAT}")
            found = [Tokenizer.from_str(json.dumps(one)) for one in values["tokenizers"]]
            special = [{number: token.content for number, token in one.get_added_tokens_decoder().items()} for one in found]
            if any(one != dict(enumerate(SPECIAL)) for one in special):
                raise UserError(f"{source}: the special tokens are not {', '.join(SPECIAL)}, which the model takes them for")
            source_language, target_language = values["languages"]
            return cls([source_language, target_language], [found[0], found[-1]], moses=values["moses"])
        except UserError:
            raise
        except Exception as error:  # the Rust side raises plain Exceptions
            raise UserError(f"{source} is no file of tokens as training writes it ({error})") from None


def train_tokens(languages, texts, *, vocabulary_size, joint, lowercase, moses=False):
    """Byte-pair encoding learned from `texts`, a list of lines for each of two `languages`; the same text gives the same.

    Args:
        vocabulary_size: of a vocabulary, in tokens: fewer where the text is too short for so many, more where it has more
            characters.
        joint: one vocabulary for both.
        lowercase: whether capitals are lost on the way in.
        moses: split words by the Moses tokenizer first, as the published IWSLT14 recipe does.
    """
    if moses:
        texts = [list(map(Moses(language).split, lines)) for language, lines in zip(languages, texts)]
    parts = [[*texts[0], *texts[1]]] if joint else texts
    found = [_trained(lines, vocabulary_size, lowercase, moses) for lines in parts]
    return Tokens(languages, [found[0], found[-1]], moses=moses)


def _trained(lines, vocabulary_size, lowercase, moses):
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    spaces = [normalizers.Replace(Regex(r"[\s\x1c-\x1f\u2581]+"), " "), normalizers.Strip()]
    letters = [*([normalizers.Lowercase()] if lowercase else []), normalizers.NFC()]
    tokenizer.normalizer = normalizers.Sequence([*letters, *spaces])
    # a space belongs to the word behind it, so that joining the pieces gives the text again; Moses has split punctuation off
    words = [pre_tokenizers.Metaspace(), *([] if moses else [pre_tokenizers.Punctuation()])]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.Metaspace()
    settings = dict(vocab_size=vocabulary_size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(**settings))
    return tokenizer


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
