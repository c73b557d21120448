"""The numbers of models that have names; to know them takes no Paddle."""

import difflib
from dataclasses import replace

from .errors import UserError


def with_numbers(config, sizes):
    """A `model` section with the numbers of its name, {name: {key: number}}, in the places that are None.

    Raises:
        UserError: an unknown name, or a number missing.
    """
    if config.name not in sizes:
        near = difflib.get_close_matches(config.name, sizes, n=1, cutoff=0)[0]
        raise UserError(f"model.name is {config.name!r}: did you mean {near}? Known: {', '.join(sizes)}")
    known = sizes[config.name]
    config = replace(config, **{key: number for key, number in known.items() if getattr(config, key) is None})
    missing = [key for key in next(iter(sizes.values())) if getattr(config, key) is None]
    if missing:
        raise UserError(f"model.name {config.name} has no {', '.join(missing)}: set model.{missing[0]}")
    return config
