"""GPT-2's byte-level byte-pair encoding from the files of its release: any text has tokens, and comes back as it was."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ..errors import UserError

END = "<|endoftext|>"
FILES = ("vocab.json", "merges.txt")


def from_json(values, source):
    """The `tokenizers.Tokenizer` of a Hugging Face `tokenizer.json`; `source` names the file in messages.

    Raises:
        UserError: it is something else, or has not GPT-2's end of a text.
    """
    try:
        tokenizer = Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # the Rust side raises plain Exceptions
        raise UserError(f"{source} is no tokenizer.json as `tokenizers` writes it ({error})") from None
    if not isinstance(tokenizer.decoder, decoders.ByteLevel) or tokenizer.token_to_id(END) is None:
        raise UserError(f"{source} is no byte-level encoding with {END}, as GPT-2's is")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens([END])
    return tokenizer


def from_folder(folder):
    """The Tokenizer of vocab.json and merges.txt in a folder, or None where they are not.

    Raises:
        UserError: they cannot be read, or do not belong together.
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
    if tokenizer.token_to_id(END) is None:
        raise UserError(f"{vocabulary} has no {END}, which GPT-2's has")
    tokenizer.add_special_tokens([END])
    return tokenizer
