"""What is told beside a model's tensors, by another library's config.json or this project's header, and holding it to that."""

from typing import Any, Callable, Dict, NamedTuple, Tuple

from ..errors import UserError
from ..weights import belongings
from ..weights.claims import compare

WIDTH = 64  # of a head in all BARTs and GPT-2s that were published


class Foreign(NamedTuple):
    """The config.json of a kind of models in other libraries."""

    here: str  # what models of the kind are called in messages, such as "the encoders here"
    only: Dict[str, Tuple]  # {name in it: the values that models here can have}
    settings: Callable[[Dict[str, Any]], Dict[str, Any]]  # its values -> {key of the section `model`: value, or None}


def implied(path, width, kind, by_names, *, activation):
    """({key of the section `model`: value}, source) of what weights are that have the names of a kind's tensors.

    Args:
        width: of the embeddings.
        kind: "BART", for instance.
        by_names: what the names of the tensors imply; without a config.json the weights are as those that were published,
            which have this `activation`, too.
    """
    told = belongings.read_beside(path, "config.json") is not None
    published = {} if told else dict(activation=activation, num_heads=None if width % WIDTH else width // WIDTH)
    source = f"{kind}, whose tensors these are" + ("" if told else ", where no config.json lies beside them")
    return by_names | published, source


def check(path, here, foreign, *, apart_from=()):
    """Hold what the weights at `path` tell against `here`, {key of the section `model`: value}, but for keys `apart_from`.

    Raises:
        UserError: something differs; the message names the settings to give, or what models here have not.
    """
    compare(path, here, _told(path, foreign), apart_from=apart_from)


def check_task(path, task):
    """Raises a UserError where the weights at `path` tell of another task than `task`."""
    told = kept_settings(path).get("task", task)
    if told != task:
        raise UserError(f"{path} was trained for {told}, and the config is of {task}: take the config of its run")


def kept(path):
    """The Belonging that tells of the model of this project's weights at `path`, {name: JSON value}; None of other weights."""
    found = belongings.find(path, belongings.MODEL)
    return found if found and isinstance(found.value, dict) else None


def kept_settings(path):
    """What that tells; of other weights nothing."""
    return found.value if (found := kept(path)) else {}


def _told(path, foreign):
    """[({key of the section `model`: value}, source)] of all that tells something of the weights."""
    told = [found] if (found := kept(path)) else []
    found = belongings.read_beside(path, "config.json")
    if found and isinstance(found.value, dict):
        for name, known in foreign.only.items():
            if (value := found.value.get(name)) is not None and value not in known:
                raise UserError(f"{path}: {name} is {value} in {found.source}, and {foreign.here} have {known[0]} alone")
        told.append((foreign.settings(found.value), found.source))
    return told
