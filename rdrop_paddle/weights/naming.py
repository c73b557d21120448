"""What naming schemes share."""

import re

import numpy as np


def renamed(names, source):
    """The name here of `source`, by the first (pattern, template) of `names` that it fits, or None."""
    for pattern, name in names:
        if match := re.fullmatch(pattern, source):
            return match.expand(name)
    return None


def fuse(weights, parts):
    """Add the queries, keys and values {name: {part: array}} to SourceWeights, side by side; what has no fellows is unknown."""
    for name, thirds in parts.items():
        if len({array.shape for array in thirds.values()}) > 1:
            raise ValueError(f"query, key and value of {name} differ in shape")
        if set(thirds) == {"query", "key", "value"}:
            array = np.concatenate([thirds["query"], thirds["key"], thirds["value"]], axis=-1)
            weights.add(name, array, "fused", "query, key and value side by side")
        else:
            weights.unknown += [f"{part} of {name}" for part in thirds]
