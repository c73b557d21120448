"""Sharding (ZeRO, arXiv 1910.02054): every rank holds the whole model, but the optimizer's state of its own share only.

Stage 1 shares out the optimizer's state, stage 2 the gradients as well. Paddle's `group_sharded_parallel` does the same,
but on GPUs only, where half of its work would be checked by nobody, and it divides the gradients by the number of ranks
inside `optimizer.step`, after the engine has clipped them.
"""

import paddle
from paddle import distributed

from .. import ranks


class Shards:
    """Who updates which parameter. `own` lists this rank's parameters: all with stage 0, where the other methods do nothing."""

    def __init__(self, parameters, stage):
        self.stage = stage
        self._parameters = list(parameters)
        rank = ranks.rank()
        owners = even_shares([p.size for p in self._parameters], ranks.count())
        self._owner = dict(zip((p.name for p in self._parameters), owners)) if stage else {}
        self.own = [p for p in self._parameters if self._owner.get(p.name, rank) == rank]
        if stage == 2:
            for parameter in self._parameters:
                parameter._register_backward_hook(self._reduce_gradient(parameter))

    def gradients(self):
        """The gradients that this rank holds: with stage 2 those of its own parameters, summed over the ranks."""
        held = self.own if self.stage == 2 else self._parameters
        return [p.grad for p in held if p.grad is not None]

    def global_norm(self):
        """The norm of all gradients, a float32 scalar that is the same on every rank."""
        # not paddle.linalg.norm, which takes ten times as long on a CPU
        gradients = (gradient.astype("float32") for gradient in self.gradients())
        square = paddle.stack([(gradient * gradient).sum() for gradient in gradients]).sum()
        return (ranks.sum_over_all(square) if self.stage == 2 else square).sqrt()

    @paddle.no_grad()
    def exchange(self):
        """Give every rank the parameters as their owners have them."""
        for parameter in self._parameters if self.stage else []:
            distributed.broadcast(parameter, src=self._owner[parameter.name])

    @paddle.no_grad()
    def whole(self, parameter, state):
        """The owner's optimizer state of `parameter`, a float32 tensor, on every rank; the others pass one of its shape.

        All ranks must call it.
        """
        if self.stage == 0:
            return state
        copy = paddle.zeros(state.shape)  # on the device: of AdamW Paddle keeps two numbers on the host
        paddle.assign(state, copy)
        distributed.broadcast(copy, src=self._owner[parameter.name])
        return copy

    def _reduce_gradient(self, parameter):
        """A hook for the moment when a backward has left the gradient: add it up at its owner and free it elsewhere.

        The owner may hold the sum over earlier micro-batches, of which the others hold nothing: nothing counts twice.
        """
        owner = self._owner[parameter.name]

        @paddle.no_grad()
        def reduce(*_):
            distributed.reduce(parameter.grad, dst=owner)
            if owner != ranks.rank():
                parameter.clear_gradient(False)  # not to zero, which would keep the memory; Paddle ignores the keyword

        return reduce


def even_shares(sizes, shares):
    """For each size the number of the share that it goes to, largest first to whichever share is the smallest by then."""
    totals, chosen = [0] * shares, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        chosen[index] = totals.index(min(totals))
        totals[chosen[index]] += sizes[index]
    return chosen
