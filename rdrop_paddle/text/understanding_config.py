"""The sections of a config that belong to understanding; the package's configs/base/understanding.yaml has their defaults."""

from dataclasses import dataclass
from typing import Optional

from ..config import one_of, within
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
            if not self.path:
                raise UserError("data.path is empty: set data.path=FOLDER, with train and test .tsv, .csv or .jsonl in it")
            return
        for key in ("text", "text_pair", "label"):
            if getattr(self, key) is not None:
                raise UserError(f"data.{key} is {getattr(self, key)} but the columns of {self.name} are known: leave it null")
        known = "number" if self.labels_are_numbers else "class"
        if self.target not in (None, known):
            raise UserError(f"data.target is {self.target} but {self.name}'s is {known}: leave it null")
