"""The sections of a config that belong to summarisation; configs/base/summarisation.yaml has their defaults."""

from dataclasses import dataclass
from typing import ClassVar, Tuple

from ..config import EvalConfig, Measure, one_of, within
from .sequence_to_sequence_config import DecodeConfig, SequenceToSequenceConfig, TransformerConfig

LANGUAGES = ("source", "target")  # what the two sides are called: the ends of the names of their files


@dataclass
class SummariesDataConfig:
    name: str = one_of("cnn_dailymail", "dialogsum", "folder")
    path: str
    lowercase: bool
    vocabulary_size: int = within(low=8, high=10**6)
    max_tokens: int = within(low=1)


@dataclass
class SummarisationEvalConfig(EvalConfig):
    select_by: str = one_of("perplexity", "ROUGE-1")


@dataclass
class SummarisationConfig(SequenceToSequenceConfig):
    model: TransformerConfig
    data: SummariesDataConfig
    eval: SummarisationEvalConfig
    decode: DecodeConfig

    columns: ClassVar[Tuple[str, ...]] = ("data.name", "model.drop_rate", *SequenceToSequenceConfig.columns)
    measure: ClassVar[Measure] = Measure("ROUGE-1", decimals=2)  # the first of the three that papers give
    languages: ClassVar[Tuple[str, str]] = LANGUAGES
