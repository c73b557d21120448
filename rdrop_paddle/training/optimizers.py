"""Paddle's optimizers by `train.optimizer`, and what they keep of each parameter, which Paddle calls by names of its own."""

from typing import NamedTuple

import numpy as np
import paddle


def build_optimizer(train, schedule, parameters):
    """The optimizer that a TrainConfig names, for the `parameters`, by the learning rates of the `schedule`.

    momentum is SGD with an L2 penalty. adamw is torch.optim.AdamW, which transformers uses: the decay is decoupled. So it is in
    fairseq's adam, which adds epsilon before the second moment is corrected and not after.
    """
    given = dict(learning_rate=schedule, parameters=parameters)
    if train.optimizer == "momentum":
        return paddle.optimizer.Momentum(momentum=train.momentum, weight_decay=train.weight_decay or None, **given)
    beta1, beta2 = train.betas
    return paddle.optimizer.AdamW(beta1=beta1, beta2=beta2, epsilon=train.epsilon, weight_decay=train.weight_decay, **given)


class Slot(NamedTuple):
    """A tensor that an optimizer keeps of each parameter."""

    kind: str  # what Paddle calls it
    initial: float = 0.0  # what it is full of before the first update
    is_scalar: bool = False  # shape [1]; otherwise the parameter's

    def name(self, parameter):
        """The name that Paddle gives the tensor."""
        return f"{parameter.name}_{self.kind}_0"


class OptimizerState:
    """All that an optimizer keeps; `slots` names its parts, which are the files of a checkpoint.

    AdamW's powers of beta are state, because an update that is left out does not count in them. Not for O2, with which Paddle
    keeps all this of float32 copies of the parameters.
    """

    def __init__(self, train, optimizer, model, shards):
        self._optimizer = optimizer
        self._model = model
        self._shards = shards
        beta1, beta2 = train.betas
        self.slots = {
            "momentum": {"momentum": Slot("velocity")},
            "adamw": {
                "first_moment": Slot("moment1"),
                "second_moment": Slot("moment2"),
                "beta1_power": Slot("beta1_pow_acc", initial=beta1, is_scalar=True),
                "beta2_power": Slot("beta2_pow_acc", initial=beta2, is_scalar=True),
            },
        }[train.optimizer]

    def tensors(self):
        """{name: tensor} of this rank's own parameters, also of what Paddle only makes in the first update."""
        return {f"{key} of {p.name}": self._tensor(slot, p) for key, slot in self.slots.items() for p in self._shards.own}

    def arrays(self):
        """{slot: {name of the parameter: float32 array}}, which do not depend on the sharding. All ranks must call it."""
        return {
            key: {name: np.asarray(self._shards.whole(p, self._tensor(slot, p))) for name, p in self._model.named_parameters()}
            for key, slot in self.slots.items()
        }

    def load(self, arrays):
        """Go on from what `arrays` gave, of which this rank takes its share."""
        own = {p.name for p in self._shards.own}
        tensors = {
            slot.name(p): paddle.to_tensor(arrays[key][name])
            for key, slot in self.slots.items()
            for name, p in self._model.named_parameters()
            if p.name in own
        }
        schedule = self._optimizer.state_dict()["LR_Scheduler"]  # Paddle wants it; it stays and follows from the update
        self._optimizer.set_state_dict({"LR_Scheduler": schedule} | tensors)

    def _tensor(self, slot, parameter):
        made = self._optimizer._accumulators.get(slot.kind, {}).get(parameter.name)
        if made is not None:
            return made
        loaded = self._optimizer._accumulators_holder.get(slot.name(parameter))  # until the next update takes it over
        if loaded is not None:
            return loaded
        return paddle.full([1] if slot.is_scalar else parameter.shape, slot.initial, "float32")
