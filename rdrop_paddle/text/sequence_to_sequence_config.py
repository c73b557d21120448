"""What the configs of translation and summarisation share: the Transformer, the search, and the choice of the best weights."""

from dataclasses import dataclass
from typing import ClassVar, Dict, Optional

from ..config import Measure, one_of, within
from ..errors import UserError
from .token_task_config import TokenTaskConfig


@dataclass
class TransformerConfig:
    name: str
    encoder_layers: Optional[int] = within(low=1)
    decoder_layers: Optional[int] = within(low=1)
    embed_dim: Optional[int] = within(low=1)
    ffn_dim: Optional[int] = within(low=1)
    num_heads: Optional[int] = within(low=1)
    norm: str = one_of("post", "pre")
    activation: str = one_of("relu", "gelu")
    positions: str = one_of("sinusoidal", "learned")
    scaled: bool
    embedding_norm: bool
    tying: str = one_of("all", "decoder", "none")
    drop_rate: float = within(low=0, high=1)
    attention_drop_rate: float = within(low=0, high=1)
    activation_drop_rate: float = within(low=0, high=1)
    max_length: int = within(low=2)
    weights: str


@dataclass
class DecodeConfig:
    beam: int = within(low=1)
    length_penalty: float = within(low=-10, high=10)
    min_length: int = within(low=0)
    max_length_a: float = within(low=0)
    max_length_b: int = within(low=1)
    no_repeat_ngram: int = within(low=0)
    max_tokens: int = within(low=1)


SEARCH = tuple(f"decode.{name}" for name in DecodeConfig.__dataclass_fields__ if name != "max_tokens")


@dataclass
class SequenceToSequenceConfig(TokenTaskConfig):
    """Of a task whose held-out answers may be searched to select the best weights: `eval.select_by` says by which score."""

    free: ClassVar[Dict[str, Optional[str]]] = {
        "data.path": None,  # checkpoints know the data by their content
        "eval.select_by": "the best weights are selected by another score from here on",
        "decode.max_tokens": None,  # how many are searched at once, which no answer depends on
        **dict.fromkeys(SEARCH, "answers are searched otherwise from here on"),
    }

    @property
    def selection(self):
        return self.measure if self._is_searched() else Measure("perplexity", higher_is_better=False)

    def scored_by(self):
        return ("eval.select_by", *SEARCH) if self._is_searched() else ("eval.select_by",)

    def _is_searched(self):
        return self.eval.select_by == self.measure.name

    def check(self):
        super().check()
        longest = self.model.max_length - 1
        if self.decode.max_length_a == 0:  # otherwise a longer source may have more
            longest = min(longest, self.decode.max_length_b)
        if self.decode.min_length > longest:
            raise UserError(
                f"decode.min_length {self.decode.min_length} is above what any answer can have, {longest} tokens by "
                "model.max_length and decode.max_length_b: lower it"
            )
