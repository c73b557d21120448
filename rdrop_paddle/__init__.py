"""R-Drop for PaddlePaddle. Each name is imported on first use, so that reading a config does not load Paddle."""

import importlib

_HOMES = {
    "kl_loss": "loss",
    "RDropLoss": "loss",
    "compute_kl_loss": "loss",
    "VisionTransformer": "vision.model",
    "Transformer": "text.transformer",
    "build_model": "vision.model",
    "load_config": "tasks",
    "Config": "config",
    "load_weights": "vision.weights",
    "evaluate": "training.engine",
    "UserError": "errors",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return __all__
