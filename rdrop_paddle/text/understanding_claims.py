"""What belongs to the weights of a classifier of texts: its tokens, its classes, what it was trained on, and its settings."""

from ..errors import UserError
from ..weights import belongings as kept
from .claims import check_task, kept_settings
from .encoder_claims import settings_of
from .glue import DATASETS

TASK = "understanding"


def belongings(tokens, model, class_names, data):
    """{name: JSON value} by a WordPiece, a TransformerEncoder and a LabelledDataConfig; `class_names`: None for numbers."""
    settings = dict(task=TASK, data=data.name, pairs=bool(data.columns[1]), **settings_of(model))
    return {kept.TOKENS: tokens.to_json(), kept.MODEL: settings, kept.CLASSES: class_names or []}


def check(path, data):
    """Hold what the weights at `path` were trained on against `data`, a LabelledDataConfig.

    Raises:
        UserError: they are of another task, take pairs of texts where the data have single ones or the other way round, or are
            of another data set of GLUE.
    """
    check_task(path, TASK)
    told = kept_settings(path)
    name, pairs = told.get("data", data.name), bool(data.columns[1])
    words = {True: "pairs of texts", False: "single texts"}
    if told.get("pairs", pairs) != pairs:
        raise UserError(f"{path} takes {words[not pairs]}, and data.name {data.name} has {words[pairs]}: take the run's config")
    if name != data.name and {name, data.name} <= DATASETS.keys():
        raise UserError(f"{path} was trained on {name}, and data.name is {data.name}: take the run's config")


def class_names(path, data):
    """The names of the classes of the weights at `path`; None where they tell none, or give numbers as the config asks.

    Raises:
        UserError: these are no names, or the weights give numbers and `data`, a LabelledDataConfig, has classes, or the other
            way round.
    """
    found = kept.find_classes(path)
    if found is None:
        return None
    names = found.value
    if bool(names) == data.labels_are_numbers:
        here, there = ("numbers", "classes") if names else ("classes", "numbers")
        told = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
        raise UserError(
            f"{path} gives {there}{told}, and the labels of data.name {data.name} are {here}: take the run's config"
        )
    return names or None
