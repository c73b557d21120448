"""The sections of a config that belong to image classification; the package's configs/base/ has their defaults."""

from dataclasses import dataclass
from typing import ClassVar, Dict, List, Optional, Tuple

from ..config import Config, Measure, one_of, within
from ..errors import UserError


@dataclass
class ModelConfig:
    name: str
    patch_size: Optional[int] = within(low=1)
    embed_dim: Optional[int] = within(low=1)
    depth: Optional[int] = within(low=1)
    num_heads: Optional[int] = within(low=1)
    mlp_ratio: Optional[float] = within(above=0)
    image_size: int = within(low=1)
    classes: int = within(low=2)
    drop_rate: float = within(low=0, high=1)
    proj_drop_rate: float = within(low=0, high=1)
    qkv_bias: bool
    epsilon: float = within(above=0)
    weights: str
    keep_head: bool
    mean: List[float] = within(low=0, length=3)  # noqa: RUF009
    std: List[float] = within(above=0, length=3)  # noqa: RUF009


@dataclass
class DataConfig:
    name: str = one_of("cifar100", "cifar10", "digits", "folder")
    path: str
    images_per_class: Optional[int] = within(low=1)
    val_fraction: float = within(low=0, high=0.9)
    crop_scale: float = within(above=0, high=1)
    flip: bool
    workers: int = within(low=0)


@dataclass
class ImageClassificationConfig(Config):
    model: ModelConfig
    data: DataConfig

    unit: ClassVar[str] = "images"
    columns: ClassVar[Tuple[str, ...]] = ("model.image_size", "data.images_per_class", *Config.columns)
    measure: ClassVar[Measure] = Measure("accuracy", in_percent=True, quotient_of=("correct", "total"))
    free: ClassVar[Dict[str, Optional[str]]] = {
        "data.path": None,  # checkpoints know the data by their content
        "data.workers": None,
    }
    former_names: ClassVar[Dict[str, str]] = {"eval.target_accuracy": "eval.target"}

    def check(self):
        super().check()
        self.check_batch_size()
        self.check_dropout("drop_rate", "proj_drop_rate")
        if self.model.keep_head and not self.model.weights:
            raise UserError("model.keep_head is true but model.weights is empty: there is no head to keep")
        if self.eval.split == "val" and not self.has_held_out():
            raise UserError("eval.split is val but data.val_fraction is 0, which holds out nothing: raise it")

    def official_alpha(self):
        rdrop = self.rdrop
        return f"officially {rdrop.alpha / 32:g}, summed over micro-batches of 32" if rdrop.reduction == "batchmean" else ""

    def has_held_out(self):
        return self.data.val_fraction > 0

    def hyper_parameters(self):
        return super().hyper_parameters() | {"image_size": self.model.image_size}
