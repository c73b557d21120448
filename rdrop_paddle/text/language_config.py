"""The sections of a config that belong to language modelling; configs/base/language_modelling.yaml has their defaults."""

from dataclasses import dataclass
from typing import ClassVar, Dict, Optional, Tuple

from ..config import EvalConfig, Measure, one_of, within
from ..errors import UserError
from .token_task_config import TokenTaskConfig


@dataclass
class LanguageModelConfig:
    name: str
    layers: Optional[int] = within(low=1)
    embed_dim: Optional[int] = within(low=1)
    ffn_dim: Optional[int] = within(low=1)
    num_heads: Optional[int] = within(low=1)
    norm: str = one_of("pre", "post")
    activation: str = one_of("gelu", "gelu_tanh", "relu")
    positions: str = one_of("sinusoidal", "learned")
    tied: bool
    scaled: bool
    drop_rate: float = within(low=0, high=1)
    attention_drop_rate: float = within(low=0, high=1)
    activation_drop_rate: float = within(low=0, high=1)
    max_length: int = within(low=2)
    weights: str


@dataclass
class TextDataConfig:
    name: str = one_of("wikitext103", "war_and_peace", "folder")
    path: str
    break_mode: str = one_of("none", "line")
    tokens_per_sample: int = within(low=1)
    vocabulary: str = one_of("bpe", "words")
    vocabulary_size: Optional[int] = within(low=8, high=10**6)
    min_count: int = within(low=1)
    lowercase: bool
    max_tokens: int = within(low=1)


@dataclass
class LanguageEvalConfig(EvalConfig):
    context: int = within(low=0)


@dataclass
class SamplingConfig:
    max_length: int = within(low=1)
    temperature: float = within(low=0)
    top_k: int = within(low=0)
    top_p: float = within(above=0, high=1)
    seed: int = within(low=0, high=2**32 - 1)


@dataclass
class LanguageModellingConfig(TokenTaskConfig):
    model: LanguageModelConfig
    data: TextDataConfig
    eval: LanguageEvalConfig
    decode: SamplingConfig

    columns: ClassVar[Tuple[str, ...]] = ("data.name", "model.drop_rate", *TokenTaskConfig.columns)
    measure: ClassVar[Measure] = Measure("perplexity", higher_is_better=False, decimals=2)
    free: ClassVar[Dict[str, Optional[str]]] = {
        "data.path": None,  # checkpoints know the data by their content
        "eval.context": "the best weights are selected with another context from here on",
        **dict.fromkeys((f"decode.{name}" for name in SamplingConfig.__dataclass_fields__), None),
    }

    def scored_by(self):
        return ("eval.context",)

    def check(self):
        super().check()
        data, longest = self.data, self.model.max_length
        if data.tokens_per_sample > longest:
            raise UserError(f"data.tokens_per_sample {data.tokens_per_sample} is above model.max_length {longest}: lower it")
        if data.tokens_per_sample > data.max_tokens:
            raise UserError(
                f"data.tokens_per_sample {data.tokens_per_sample} is above data.max_tokens {data.max_tokens}: "
                "a micro-batch must have room for one sample"
            )
        if self.eval.context >= data.tokens_per_sample:
            raise UserError(
                f"eval.context {self.eval.context} leaves none of data.tokens_per_sample {data.tokens_per_sample} to score: "
                "lower it"
            )
        if self.decode.max_length >= longest:
            raise UserError(
                f"decode.max_length {self.decode.max_length} leaves no room in model.max_length {longest}: lower it"
            )
        if data.vocabulary == "bpe" and data.vocabulary_size is None:
            raise UserError("data.vocabulary is bpe and data.vocabulary_size null: give how many tokens are to be learned")
        if data.vocabulary == "bpe" and data.min_count > 1:
            raise UserError(f"data.min_count is {data.min_count}, which is of data.vocabulary=words: leave it 1")
