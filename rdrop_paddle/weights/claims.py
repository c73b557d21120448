"""Holding what is told beside a model's tensors to the settings that the model was built by."""

import numpy as np

from ..errors import UserError


def compare(path, here, claims, *, apart_from=()):
    """Hold what the weights at `path` tell against `here`, {key of the section `model`: value}, but for keys `apart_from`.

    Args:
        claims: [({key of the section `model`: value, or None}, source)].

    Raises:
        UserError: something differs; the message names the settings to give.
    """
    differences, advice = [], {}
    for told, source in claims:
        for key, value in here.items():
            if told.get(key) is not None and key not in apart_from and not _is_same(told[key], value):
                differences.append(f"model.{key} is {value} here and {told[key]} in {source}")
                setting = f"model.{key}={told[key]}".replace(" ", "")
                advice[f"'{setting}'" if "[" in setting else setting] = None
    if differences:
        raise UserError(
            f"{path} is of a model with other settings: {'; '.join(differences)}. Give {' '.join(advice)}, or move away what "
            "lies beside it and belongs to other weights"
        )


def _is_same(told, here):
    if isinstance(here, str):
        return told == here
    try:
        return np.shape(told) == np.shape(here) and np.allclose(told, here, rtol=1e-6, atol=0)
    except (TypeError, ValueError):  # no numbers at all
        return False
