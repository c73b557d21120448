"""What weights tell of their model that the shapes of their tensors do not: its classes' names, its pixels, its heads.

This project's tell it themselves (weights/belongings.py); timm and transformers write it to config.json and
preprocessor_config.json, which are looked for beside a weight file of any format.
"""

from ..errors import UserError
from ..weights import belongings
from ..weights.claims import compare
from .architectures import with_numbers

SETTINGS = ("image_size", "num_heads", "epsilon", "mean", "std")  # keys of the section `model`
ACTIVATIONS = ("gelu", "gelu_python")  # names of the exact GELU, which is the models' own


def of_model(config):
    """{key of the section `model`: JSON value} of what weights are told with, by a ModelConfig."""
    return {key: getattr(with_numbers(config), key) for key in SETTINGS}


def class_names(path, count):
    """The names of the classes of the weights at `path`, in the order of their logits; None where they have none.

    Raises:
        UserError: these are no names of `count` classes.
    """
    found = belongings.find_classes(path)
    if found is None:
        return None
    names, source = found
    if len(names) != count:
        raise UserError(f"{source} names {len(names)} classes and model.classes is {count}: it is of other weights")
    return names


def check(path, config, *, any_size=False):
    """Hold what the weights at `path` tell against a ModelConfig.

    Args:
        any_size: whether they may be of another image size, as to train on from them.

    Raises:
        UserError: something differs; the message names the settings to give.
    """
    claims = _told(path)
    for told, source in claims:
        if (activation := told.get("activation")) not in (None, *ACTIVATIONS):
            raise UserError(f"{path} is of a model with the activation {activation} ({source}), and the models here have gelu")
    compare(path, of_model(config), claims, apart_from=["image_size"] if any_size else ())


def _told(path):
    """[({key of SETTINGS, or "activation": value}, source)] of all that tells something of the weights."""
    readers = [
        (belongings.find(path, belongings.MODEL), lambda found: found),
        (belongings.read_beside(path, "config.json"), _of_config),
        (belongings.read_beside(path, "preprocessor_config.json"), _of_preprocessor),
    ]
    return [(read(found.value), found.source) for found, read in readers if found and isinstance(found.value, dict)]


def _of_config(found):
    """The config.json of transformers, or of timm, which once had all of `pretrained_cfg` in its place."""
    if "num_attention_heads" in found:
        return dict(
            image_size=found.get("image_size"),
            num_heads=found["num_attention_heads"],
            epsilon=found.get("layer_norm_eps"),
            activation=found.get("hidden_act"),
        )
    pixels, arguments = found.get("pretrained_cfg") or found, found.get("model_args") or {}
    size = pixels.get("input_size") or [None]  # channels, height, width
    return dict(
        mean=pixels.get("mean"),
        std=pixels.get("std"),
        image_size=arguments.get("img_size") or size[-1],
        num_heads=arguments.get("num_heads"),
        activation=arguments.get("act_layer"),
    )


def _of_preprocessor(found):
    """The preprocessor_config.json of transformers; without do_normalize values are left from 0 to 1."""
    size = found.get("crop_size") if found.get("do_center_crop") else found.get("size")
    size = size.get("height") if isinstance(size, dict) else size
    if found.get("do_normalize") is False:
        return dict(mean=[0.0] * 3, std=[1.0] * 3, image_size=size)
    return dict(mean=found.get("image_mean"), std=found.get("image_std"), image_size=size)
