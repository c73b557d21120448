"""Byte-level byte-pair encoding, as GPT-2 and BART have it, of their releases: any text has tokens and comes back as it was."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ..errors import UserError

GPT2, BART = ("<|endoftext|>",), ("<s>", "<pad>", "</s>", "<unk>")  # special tokens that each must have
_NAMES = {GPT2: "GPT-2's", BART: "BART's"}
FILES = ("vocab.json", "merges.txt")


def from_json(values, source, special=GPT2):
    """The `tokenizers.Tokenizer` of a Hugging Face `tokenizer.json`; `source` names the file in messages.

    Raises:
        UserError: it is something else, or has not all `special` tokens.
    """
    try:
        tokenizer = Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # the Rust side raises plain Exceptions
        raise UserError(f"{source} is no tokenizer.json as `tokenizers` writes it ({error})") from None
    if not isinstance(tokenizer.decoder, decoders.ByteLevel) or _missing(tokenizer, special):
        raise UserError(f"{source} is no byte-level encoding with {', '.join(special)}, as {_NAMES[special]} is")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def from_folder(folder, special=GPT2):
    """The Tokenizer of vocab.json and merges.txt in a folder, or None where they are not.

    Raises:
        UserError: they cannot be read, do not belong together, or have not all `special` tokens.
    """
    vocabulary, merges = (Path(folder) / name for name in FILES)
    if not (vocabulary.exists() and merges.exists()):
        return None
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:
        raise UserError(f"{vocabulary} and {merges.name} are no byte-pair encoding ({error})") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if missing := _missing(tokenizer, special):
        raise UserError(f"{vocabulary} has no {', '.join(missing)}, which {_NAMES[special]} has")
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def first_of(tokenizer, count, source):
    """The Tokenizer with its first `count` tokens alone: those that a model has embeddings of; `source` names it in messages.

    Raises:
        UserError: other tokens are made of what would be gone, or there are not so many.
    """
    there = tokenizer.get_vocab_size()
    if there == count:
        return tokenizer
    values = json.loads(tokenizer.to_str())
    vocabulary = values["model"]["vocab"]
    values["model"]["vocab"] = {token: number for token, number in vocabulary.items() if number < count}
    values["added_tokens"] = [token for token in values["added_tokens"] if token["id"] < count]
    try:
        found = Tokenizer.from_str(json.dumps(values))
    except Exception:  # the Rust side raises plain Exceptions
        found = None
    if found is None or found.get_vocab_size() != count:
        raise UserError(f"{source} is of a model with {count:,} tokens, and those beside it are {there:,}: put its own there")
    return found


def _missing(tokenizer, special):
    return [name for name in special if tokenizer.token_to_id(name) is None]
