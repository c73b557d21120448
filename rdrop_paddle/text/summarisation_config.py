"""The sections of a config that belong to summarisation; configs/base/summarisation.yaml has their defaults."""

from dataclasses import dataclass
from typing import ClassVar, Dict, Optional, Tuple

from ..config import Config, EvalConfig, Measure, one_of, within
from ..errors import UserError
from .config import DecodeConfig, TransformerConfig, check_micro_batches

LANGUAGES = ("source", "target")  # what the two sides are called: the ends of the names of their files


@dataclass
class SummariesDataConfig:
    name: str = one_of("cnn_dailymail", "dialogsum", "folder")
    path: str
    lowercase: bool
    vocabulary_size: int = within(low=8)
    max_tokens: int = within(low=1)


@dataclass
class SummarisationEvalConfig(EvalConfig):
    select_by: str = one_of("perplexity", "ROUGE-1")


@dataclass
class SummarisationConfig(Config):
    model: TransformerConfig
    data: SummariesDataConfig
    eval: SummarisationEvalConfig
    decode: DecodeConfig

    unit: ClassVar[str] = "tokens"
    columns: ClassVar[Tuple[str, ...]] = ("data.name", "model.drop_rate", *Config.columns)
    measure: ClassVar[Measure] = Measure("ROUGE-1", decimals=2)  # the first of the three that papers give
    free: ClassVar[Dict[str, Optional[str]]] = {
        "data.path": None,  # checkpoints know the data by their content
        "eval.select_by": "the best weights are selected by another score from here on",
        **dict.fromkeys((f"decode.{name}" for name in DecodeConfig.__dataclass_fields__), None),
    }
    languages: ClassVar[Tuple[str, str]] = LANGUAGES

    @property
    def selection(self):
        return self.measure if self.eval.select_by == "ROUGE-1" else Measure("perplexity", higher_is_better=False)

    def check(self):
        super().check()
        check_micro_batches(self.train)
        longest = min(self.decode.max_length_b, self.model.max_length - 1)
        if self.decode.min_length > longest:
            raise UserError(
                f"decode.min_length {self.decode.min_length} is above what a summary can have, {longest} tokens by "
                "decode.max_length_b and model.max_length: lower it"
            )

    def hyper_parameters(self):
        own = {"drop_rate": self.model.drop_rate, "model": self.model.name, "data": self.data.name}
        return super().hyper_parameters() | own
