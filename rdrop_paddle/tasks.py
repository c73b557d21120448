"""The tasks: where each has its class and the sections of its config. Nothing of a task is imported before it is asked for.

config = load_config("configs/vit_b16_cifar100_rdrop.yaml", ["model.image_size=224"])
task = build_task(config)
"""

import difflib
import importlib
from typing import NamedTuple

from .config import data_root
from .config_layers import merge, read_layers
from .console import say
from .errors import UserError


class Home(NamedTuple):
    """Modules and names below this package."""

    config: str
    task: str


TASKS = {
    "image_classification": Home("vision.config.ImageClassificationConfig", "vision.task.ImageClassification"),
    "translation": Home("text.translation_config.TranslationConfig", "text.translation.Translation"),
    "summarisation": Home("text.summarisation_config.SummarisationConfig", "text.summarisation.Summarisation"),
    "language_modelling": Home("text.language_config.LanguageModellingConfig", "text.language_modelling.LanguageModelling"),
    "understanding": Home("text.understanding_config.UnderstandingConfig", "text.understanding.Understanding"),
}
DEFAULT = "image_classification"  # of a config that names none, as those from before there were others


def load_config(path=None, overrides=()):
    """The defaults of a task, then the YAML file `path`, then `overrides` such as "train.steps=300", as a checked Config.

    Raises:
        UserError: an unreadable file, an unknown task or key, a wrong type, a value out of range, or values that
            contradict each other; the message names the place and, for a key, the nearest valid one.
    """
    layers = read_layers(path, overrides)
    named = [(source, layer["task"]) for source, layer in layers if "task" in layer]
    source, task = named[-1] if named else ("", DEFAULT)
    if str(task) not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, n=1, cutoff=0)[0]
        raise UserError(f"{source}: task is {task!r}: did you mean {near}? Known: {', '.join(TASKS)}")
    return merge(config_class(task), task, layers)


def config_class(task):
    """The subclass of Config of a task, by its name in TASKS."""
    return _found(TASKS[task].config)


def build_task(config):
    """The task that `config` names, with its model, as the engine takes it."""
    return _found(TASKS[config.task].task)(config)


def trained(config, weights, *, sha256=None, ema=False):
    """(the task that `config` names, with the trained weights of a file or folder; their WeightReport).

    Args:
        weights: a path, or a bare name under RDROP_DATA.
        sha256: what the file's must be.
        ema: take the average of the weights that the file holds beside them.

    Raises:
        UserError: there are none, they are damaged, or do not belong to the config.
    """
    from .weights.loading import find_weights

    task, path = build_task(config), find_weights(str(weights), data_root())
    say(f"reading the weights {path}")
    return task, task.load_weights(path, sha256=sha256, ema=ema)


def _found(place):
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f".{module}", __package__), name)
