"""The sections of a config that belong to understanding; the package's configs/base/understanding.yaml has their defaults."""

from dataclasses import dataclass
from typing import ClassVar, Dict, Optional, Tuple

from ..config import Config, EvalConfig, Measure, one_of, within
from ..errors import UserError
from .glue import DATASETS


@dataclass
class LabelledDataConfig:
    name: str = one_of(*DATASETS, "folder")
    path: str
    text: Optional[str]
    text_pair: Optional[str]
    label: Optional[str]
    target: Optional[str] = one_of("class", "number")
    examples: Optional[int] = within(low=1)
    val_fraction: float = within(above=0, high=0.9)
    max_length: int = within(low=5)

    @property
    def columns(self):
        """The names of the columns (text, second text or None, label)."""
        if self.name == "folder":
            return self.text or "text", self.text_pair, self.label or "label"
        dataset = DATASETS[self.name]
        return dataset.text, dataset.text_pair, dataset.label

    @property
    def labels_are_numbers(self):
        """Whether a label is a number to come near to, and not the name of a class."""
        return self.target == "number" if self.name == "folder" else DATASETS[self.name].classes is None

    def check(self):
        """Raises a UserError when values contradict each other."""
        if len({*self.columns}) < 3:
            raise UserError(f"data.text, data.text_pair and data.label are {self.columns}: give each a column of its own")
        if self.name == "folder":
            return
        for key in ("text", "text_pair", "label"):
            if getattr(self, key) is not None:
                raise UserError(f"data.{key} is {getattr(self, key)} but the columns of {self.name} are known: leave it null")
        known = "number" if self.labels_are_numbers else "class"
        if self.target not in (None, known):
            raise UserError(f"data.target is {self.target} but {self.name}'s is {known}: leave it null")


@dataclass
class EncoderConfig:
    name: str
    layers: Optional[int] = within(low=1)
    embed_dim: Optional[int] = within(low=1)
    ffn_dim: Optional[int] = within(low=1)
    num_heads: Optional[int] = within(low=1)
    types: int = within(low=1)
    max_length: int = within(low=5)
    pooling: str = one_of("pooler", "mean")
    drop_rate: float = within(low=0, high=1)
    attention_drop_rate: float = within(low=0, high=1)
    epsilon: float = within(above=0)
    weights: str
    tokenizer: str


@dataclass
class UnderstandingEvalConfig(EvalConfig):
    split: str = one_of("test", "test_mismatched", "val")


@dataclass
class UnderstandingConfig(Config):
    model: EncoderConfig
    data: LabelledDataConfig
    eval: UnderstandingEvalConfig

    unit: ClassVar[str] = "examples"
    columns: ClassVar[Tuple[str, ...]] = ("data.name", "data.examples", "model.drop_rate", *Config.columns)
    free: ClassVar[Dict[str, Optional[str]]] = {"data.path": None}  # checkpoints know the data by their content

    @property
    def measure(self):
        """The score that GLUE gives for the data, of several the first."""
        if self.data.labels_are_numbers:
            return Measure("Pearson", in_percent=True)
        if self.data.name == "cola":
            return Measure("Matthews", in_percent=True)
        return Measure("accuracy", in_percent=True, quotient_of=("correct", "total"))

    @property
    def terms(self):
        return ("mse", "difference") if self.data.labels_are_numbers else Config.terms

    def check(self):
        super().check()
        self.data.check()
        model = self.model
        self.check_batch_size()
        self.check_dropout("drop_rate", "attention_drop_rate")
        if self.data.max_length > model.max_length:
            raise UserError(
                f"data.max_length is {self.data.max_length} but the model has positions for model.max_length "
                f"{model.max_length} tokens: lower it"
            )
        if self.data.columns[1] and model.types < 2:
            raise UserError(f"model.types is {model.types} but the texts are pairs, of two types: model.types=2")
        if self.data.labels_are_numbers:
            self._check_regression()

    def _check_regression(self):
        if self.train.label_smoothing > 0:
            raise UserError("train.label_smoothing is for classes and the labels are numbers: train.label_smoothing=0")
        if self.rdrop.reduction != "batchmean" or self.rdrop.stop_target_gradient:
            raise UserError(
                "the labels are numbers, of which there is no KL but a mean squared difference: rdrop.reduction=batchmean "
                "rdrop.stop_target_gradient=false"
            )

    def official_alpha(self):
        """The official alpha is twice this one, as its loss is; of classes it multiplies a KL summed over the batch."""
        if self.rdrop.reduction != "batchmean" or self.rdrop.alpha == 0:
            return ""
        if self.data.labels_are_numbers:
            return f"officially {2 * self.rdrop.alpha:g}"
        return f"officially {2 * self.rdrop.alpha / self.train.batch_size:g}, summed over batches of {self.train.batch_size}"
