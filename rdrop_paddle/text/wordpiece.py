"""BERT's tokens, by `tokenizers`: WordPiece with the vocabulary and the rules of a pretrained model's files.

What looks like a special token in a text is text, as with translation's tokens: no text becomes padding or the end of another.
transformers reads it so with `split_special_tokens=True`. Padding and truncation of the files are left aside: both depend on
the batch and the model.
"""

import json
from pathlib import Path
from typing import List, NamedTuple

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ..errors import UserError
from ..weights import belongings

PADDING, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


class Encoded(NamedTuple):
    """Tokens of inputs with the special ones, which of an input's texts each is of, and how many inputs were cut."""

    ids: List[List[int]]
    types: List[List[int]]
    truncated: int


class WordPiece:
    """The tokens of a BERT.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        source: what to call its file in messages.

    Raises:
        UserError: it is of another kind, or without the special tokens.
    """

    def __init__(self, tokenizer, source):
        if not isinstance(tokenizer.model, models.WordPiece):
            kind = type(tokenizer.model).__name__
            raise UserError(f"{source} is of {kind}, and BERT's tokens are of WordPiece: take a BERT's")
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if missing := [token for token in (PADDING, UNKNOWN, BEGIN, END) if token not in vocabulary]:
            raise UserError(f"{source} has no {', '.join(missing)} among its {len(vocabulary)} tokens: take a BERT's")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # its file does not keep it
        self._tokenizer = tokenizer
        self.size = max(vocabulary.values()) + 1
        self.padding = vocabulary[PADDING]
        self._templates = [_template(tokenizer.encode(*texts)) for texts in (["a"], ["a", "a"])]
        for template in self._templates:
            if not {vocabulary[BEGIN], vocabulary[END]} <= {number for text, number, _ in template if text is None}:
                raise UserError(f"{source} puts no {BEGIN} and {END} around a text, as a BERT is used to: take a BERT's")

    def encode(self, texts, pairs=None, *, max_length):
        """The Encoded of texts, or of pairs of a text and the one in its place in `pairs`.

        Of inputs that have more than `max_length` tokens with the special ones the longer text loses its last, and both
        where they are equally long; an odd one stays with the longer, or with the second.

        Raises:
            UserError: `max_length` leaves no room beside the special tokens.
        """
        template = self._templates[0 if pairs is None else 1]
        columns = [self._ids(column) for column in ([texts] if pairs is None else [texts, pairs])]
        room = max_length - sum(text is None for text, _, _ in template)
        if room < len(columns):
            raise UserError(f"a length of {max_length} tokens leaves no room for a text beside {BEGIN} and {END}: give more")
        found = Encoded([], [], sum(sum(map(len, parts)) > room for parts in zip(*columns)))
        for parts in zip(*columns):
            parts = [part[:length] for part, length in zip(parts, _kept([*map(len, parts)], room))]
            of_texts = [([number] if text is None else parts[text], kind) for text, number, kind in template]
            found.ids.append([number for part, _ in of_texts for number in part])
            found.types.append([kind for part, kind in of_texts for _ in part])
        return found

    def to_json(self):
        """The `tokenizer.json` of Hugging Face, which `from_json` reads, as JSON values."""
        return json.loads(self._tokenizer.to_str())

    @classmethod
    def from_json(cls, values, source):
        """The WordPiece of a `tokenizer.json`; `source` names the file in messages.

        Raises:
            UserError: it is something else.
        """
        try:
            tokenizer = Tokenizer.from_str(json.dumps(values))
        except Exception as error:  # the Rust side raises plain Exceptions
            raise UserError(f"{source} is no tokenizer.json as `tokenizers` writes it ({error})") from None
        return cls(tokenizer, source)

    def _ids(self, texts):
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def read_wordpiece(path):
    """The WordPiece that belongs to the weights at `path`, a file or folder.

    It is that of their header, else of tokenizer.json beside them, else of vocab.txt, to which a tokenizer_config.json may say
    do_lower_case, strip_accents and tokenize_chinese_chars.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if found := belongings.find(path, belongings.TOKENS):
        return WordPiece.from_json(*found)
    file = (Path(path) if Path(path).is_dir() else Path(path).parent) / "vocab.txt"
    try:
        tokens = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise UserError(
            f"{path} has no tokens in its header, and neither {belongings.TOKENS}.json nor vocab.txt lies beside it: "
            "put the one of its model there, without which the weights mean nothing"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    beside = belongings.read_beside(path, "tokenizer_config.json")
    return WordPiece(_of_vocabulary(tokens, beside.value if beside else {}), str(file))


def _of_vocabulary(tokens, rules):
    """A Tokenizer of the tokens in their order, with BERT's rules but where the values of a tokenizer_config.json differ."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=rules.get("tokenize_chinese_chars", True),
        strip_accents=rules.get("strip_accents"),
        lowercase=rules.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([token for token in (PADDING, UNKNOWN, BEGIN, END, "[MASK]") if token in vocabulary])
    if {BEGIN, END} <= vocabulary.keys():
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A {END}",
            pair=f"{BEGIN} $A {END} $B:1 {END}:1",
            special_tokens=[(token, vocabulary[token]) for token in (BEGIN, END)],
        )
    return tokenizer


def _template(encoding):
    """[(which text stands here or None, the token if it is a special one, its type)] of an encoding of texts of one token."""
    return [*zip(encoding.sequence_ids, encoding.ids, encoding.type_ids)]


def _kept(lengths, room):
    """How many tokens are kept of each text, so that together they have at most `room`."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    shorter = min(*lengths, room // 2) if sum(lengths) > room else min(lengths)
    longer = min(max(lengths), room - shorter)
    return [longer, shorter] if lengths[0] > lengths[1] else [shorter, longer]
