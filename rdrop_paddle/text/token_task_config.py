"""What the configs of language modelling, translation and summarisation share: micro-batches that hold so many tokens."""

from dataclasses import dataclass
from typing import ClassVar

from ..config import Config
from ..errors import UserError


@dataclass
class TokenTaskConfig(Config):
    """Of a task whose section `data` has `max_tokens`."""

    unit: ClassVar[str] = "tokens"

    def check(self):
        super().check()
        if self.train.accumulation is None:
            raise UserError("train.accumulation is null: give the number of micro-batches in an update")
        for key in ("batch_size", "micro_batch_size"):
            if getattr(self.train, key) is not None:
                raise UserError(f"train.{key} counts sentences: leave it null, and set data.max_tokens and train.accumulation")
        self.check_dropout("drop_rate", "attention_drop_rate", "activation_drop_rate")
