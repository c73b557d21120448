"""What belongs to the weights of a classifier of texts: its tokens, its classes, and the settings of its encoder."""

from ..errors import UserError
from ..weights import belongings as kept
from .encoder_claims import settings_of


def belongings(tokens, model, class_names):
    """{name: JSON value} by a WordPiece and a TransformerEncoder; `class_names`: None where it gives numbers."""
    return {kept.TOKENS: tokens.to_json(), kept.MODEL: settings_of(model), kept.CLASSES: class_names or []}


def class_names(path, data):
    """The names of the classes of the weights at `path`; None where they tell none, or give numbers as the config asks.

    Raises:
        UserError: these are no names, or the weights give numbers and `data`, a LabelledDataConfig, has classes, or the other
            way round.
    """
    found = kept.find(path, kept.CLASSES)
    if found is None:
        return None
    names, source = found
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{source} is no list of the names of classes: mend it or move it away")
    if bool(names) == data.labels_are_numbers:
        here, there = ("numbers", "classes") if names else ("classes", "numbers")
        told = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
        raise UserError(
            f"{path} gives {there}{told}, and the labels of data.name {data.name} are {here}: take the run's config"
        )
    return names or None
