"""Paddle's optimizers by `train.optimizer`, and what they keep of each parameter, which Paddle calls by names of its own."""

from typing import NamedTuple

import numpy as np
import paddle


def build_optimizer(train, schedule, parameters):
    """The optimizer that a TrainConfig names, for the `parameters`, by the learning rates of the `schedule`.

    momentum is SGD with an L2 penalty; adamw has decoupled decay as torch.optim.AdamW, fairseq's adam and transformers.
    """
    given = dict(learning_rate=schedule, parameters=parameters)
    if train.optimizer == "momentum":
        return paddle.optimizer.Momentum(momentum=train.momentum, weight_decay=train.weight_decay or None, **given)
    beta1, beta2 = train.betas
    return paddle.optimizer.AdamW(beta1=beta1, beta2=beta2, epsilon=train.epsilon, weight_decay=train.weight_decay, **given)


class Slot(NamedTuple):
    """A tensor that an optimizer keeps of each parameter."""

    suffix: str  # behind the parameter's name it is the name that Paddle gives it
    initial: float = 0.0  # what it is full of before the first update
    is_scalar: bool = False  # shape [1]; otherwise the parameter's


class OptimizerState:
    """All that an optimizer keeps; `slots` names its parts, which are the files of a checkpoint.

    The powers of beta are state: an update that is left out does not count in them.
    """

    def __init__(self, train, optimizer, model, shards):
        self._optimizer = optimizer
        self._model = model
        self._shards = shards
        beta1, beta2 = train.betas
        self.slots = {
            "momentum": {"momentum": Slot("velocity_0")},
            "adamw": {
                "first_moment": Slot("moment1_0"),
                "second_moment": Slot("moment2_0"),
                "beta1_power": Slot("beta1_pow_acc_0", initial=beta1, is_scalar=True),
                "beta2_power": Slot("beta2_pow_acc_0", initial=beta2, is_scalar=True),
            },
        }[train.optimizer]

    def tensors(self):
        """{name: tensor} of this rank's own parameters; before the first update, in which Paddle makes them, copies."""
        kept = self._kept()
        return {f"{name} of {p.name}": _tensor(kept, slot, p) for name, slot in self.slots.items() for p in self._shards.own}

    def arrays(self):
        """{slot: {name of the parameter: float32 array}}, which do not depend on the sharding. All ranks must call it."""
        kept = self._kept()
        return {
            name: {key: np.asarray(self._shards.whole(p, _tensor(kept, slot, p))) for key, p in self._model.named_parameters()}
            for name, slot in self.slots.items()
        }

    def load(self, arrays):
        """Go on from what `arrays` gave, of which this rank takes its share."""
        schedule = self._optimizer.state_dict()[
            "LR_Scheduler"
        ]  # Paddle wants it; it stays as it is and follows from the update
        own = {p.name for p in self._shards.own}
        tensors = {
            _key(slot, p): paddle.to_tensor(arrays[name][key])
            for name, slot in self.slots.items()
            for key, p in self._model.named_parameters()
            if p.name in own
        }
        self._optimizer.set_state_dict({"LR_Scheduler": schedule} | tensors)

    def _kept(self):
        # Paddle 2 does not tell before the first update what it was given
        return self._optimizer._accumulators_holder | self._optimizer.state_dict()


def _tensor(kept, slot, parameter):
    tensor = kept.get(_key(slot, parameter))
    shape = [1] if slot.is_scalar else parameter.shape
    return paddle.full(shape, slot.initial, "float32") if tensor is None else tensor


def _key(slot, parameter):
    return f"{parameter.name}_{slot.suffix}"
