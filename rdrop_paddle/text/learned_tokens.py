"""The tokens of a run: those that it began with, or else learned from its training text, once for all runs on it."""

import hashlib
import json

from .. import ranks
from ..config import data_root
from ..durability import checkpoint, files
from ..reporting.runlog import run_folder
from .tokens import FILE, FORMAT, Tokens


def tokens_of_run(config, origin, learn, sides=2):
    """The Tokens of the run folder of `config`, or those that `learn` gives, kept under RDROP_DATA/tokens; of all ranks.

    Args:
        origin: a function that gives what they follow from, JSON values; called only where the run has not begun.
        learn: a function that gives them; called on rank 0, when nobody has learned them yet.
        sides: how many the task has.

    Raises:
        UserError: a file of tokens cannot be read or written.
    """
    folder = run_folder(config)  # a run that is resumed has them, be its data of another machine
    if checkpoint.latest(folder) and (folder / FILE).exists():
        return Tokens.read(folder / FILE, sides)
    name = hashlib.sha256(json.dumps([FORMAT, *origin()]).encode()).hexdigest()[:16]
    learned = data_root() / "tokens" / f"{name}.json"
    if ranks.rank() == 0:
        files.once(data_root(), learned.exists, lambda: _keep(learned, learn()))
    ranks.wait_for_all()
    return Tokens.read(learned, sides)


def _keep(path, tokens):
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace_file(path, files.json_bytes(tokens.to_json()))
