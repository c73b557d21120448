"""The exceptions that mean "the user can mend this"."""

import importlib.metadata
import shlex
from pathlib import Path

NAME = "rdrop-paddle"
GPU_INDEX = "https://www.paddlepaddle.org.cn/packages/stable/cu126/"
# module: (the package that provides it, the extra of this package that brings it)
PROVIDERS = {
    "matplotlib": ("matplotlib", "train"),
    "omegaconf": ("omegaconf", "train"),
    "PIL": ("Pillow", "train"),
    "pooch": ("pooch", "train"),
    "safetensors": ("safetensors", "train"),
    "scipy": ("scipy", "train"),
    "sklearn": ("scikit-learn", "train"),
    "tqdm": ("tqdm", "train"),
    "visualdl": ("visualdl", "train"),
    "yaml": ("pyyaml", "train"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "paddle2onnx": ("paddle2onnx", "onnx"),
    "ctranslate2": ("ctranslate2", "ctranslate2"),
    "rouge_score": ("rouge-score", "text"),
    "sacrebleu": ("sacrebleu", "text"),
    "sacremoses": ("sacremoses", "text"),
    "tokenizers": ("tokenizers", "text"),
}


class UserError(ValueError):
    """Says in one sentence what is wrong, where, and what to do. Tools print it and exit with status 2."""


class MissingPackage(UserError, ModuleNotFoundError):
    """A package that something needs is not installed; says which command installs it."""


def what_is_missing(needed_by, error):
    """The text of a MissingPackage for a ModuleNotFoundError, or None when what is missing is not for the user to install."""
    if error.name == "paddle":
        return (
            f"{needed_by} needs Paddle: pip install paddlepaddle, "
            f"or for NVIDIA GPUs pip install paddlepaddle-gpu --extra-index-url {GPU_INDEX}"
        )
    if error.name not in PROVIDERS:
        return None
    package, extra = PROVIDERS[error.name]
    return f"{needed_by} needs {package}: pip install {shlex.quote(f'{_source()}[{extra}]')}"


def _source():
    """What pip knows this package by: its name, or in a checkout that is not installed the folder."""
    try:
        importlib.metadata.version(NAME)
        return NAME
    except importlib.metadata.PackageNotFoundError:
        return Path(__file__).resolve().parent.parent
