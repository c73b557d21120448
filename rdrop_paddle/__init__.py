"""R-Drop for PaddlePaddle. Each name is imported on first use, so that reading a config does not load Paddle."""

import importlib

__version__ = "0.1.0"
_HOMES = {
    "kl_loss": "loss",
    "RDropLoss": "loss",
    "compute_kl_loss": "loss",
    "cross_entropy": "loss",
    "RDropRegressionLoss": "loss",
    "RDropBCELoss": "loss",
    "FusedLinearRDropLoss": "fused_linear_loss",
    "fused_linear_cross_entropy": "fused_linear_loss",
    "VisionTransformer": "vision.model",
    "Transformer": "text.transformer",
    "TransformerEncoder": "text.encoder",
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
    try:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        from .errors import MissingPackage, what_is_missing

        if text := what_is_missing(name, error):
            raise MissingPackage(text) from None
        raise


def __dir__():
    return __all__
