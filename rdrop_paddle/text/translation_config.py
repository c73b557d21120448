"""The sections of a config that belong to translation; configs/base/translation.yaml has their defaults."""

from dataclasses import dataclass
from typing import ClassVar, Optional, Tuple

from ..config import EvalConfig, Measure, one_of, within
from ..errors import UserError
from .sequence_to_sequence_config import DecodeConfig, SequenceToSequenceConfig, TransformerConfig


@dataclass
class ParallelDataConfig:
    name: str = one_of("multi30k", "iwslt14", "wmt14", "folder")
    path: str
    source: str
    target: str
    lowercase: bool
    moses: bool
    vocabulary: str = one_of("joint", "separate")
    vocabulary_size: int = within(low=8, high=10**6)
    max_tokens: int = within(low=1)
    sentences: Optional[int] = within(low=1)


@dataclass
class TranslationEvalConfig(EvalConfig):
    select_by: str = one_of("perplexity", "BLEU")


@dataclass
class TranslationConfig(SequenceToSequenceConfig):
    model: TransformerConfig
    data: ParallelDataConfig
    eval: TranslationEvalConfig
    decode: DecodeConfig

    columns: ClassVar[Tuple[str, ...]] = ("data.source", "data.target", "model.drop_rate", *SequenceToSequenceConfig.columns)
    measure: ClassVar[Measure] = Measure("BLEU", decimals=2)

    @property
    def languages(self):
        """What the two sides are called."""
        return self.data.source, self.data.target

    def check(self):
        super().check()
        if self.data.source == self.data.target:
            raise UserError(f"data.source and data.target are both {self.data.source}: give two languages")
        if self.model.tying == "all" and self.data.vocabulary == "separate":
            raise UserError("model.tying is all but data.vocabulary separate: one embedding needs data.vocabulary=joint")

    def hyper_parameters(self):
        return super().hyper_parameters() | {"languages": f"{self.data.source}-{self.data.target}"}
