"""A moving average of the weights, which is evaluated in their place."""

import contextlib

import paddle


class WeightAverage:
    """Float32 averages of a model's parameters: decay * average + (1 - decay) * parameter after each update.

    They begin with the parameters as they are now. Every rank holds all of them; `decay` None means none, and the methods then
    do nothing.
    """

    @paddle.no_grad()
    def __init__(self, model, decay):
        self._parameters = dict(model.named_parameters()) if decay is not None else {}
        self._decay = decay
        # clone: astype gives a float32 tensor itself
        self.tensors = {name: p.astype("float32").clone() for name, p in self._parameters.items()}

    @paddle.no_grad()
    def update(self):
        for name, parameter in self._parameters.items():
            self.tensors[name].scale_(self._decay).add_(parameter.astype("float32") * (1 - self._decay))

    def arrays(self):
        """{name: float32 array}, empty without averaging."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def load(self, arrays):
        """Go on from what `arrays` gave."""
        self.tensors = {name: paddle.to_tensor(arrays[name]) for name in self._parameters}

    @contextlib.contextmanager
    def in_use(self):
        """Meanwhile the model's parameters are the averages."""
        own = {name: parameter.clone() for name, parameter in self._parameters.items()}
        self._put(self.tensors)
        try:
            yield
        finally:
            self._put(own)

    @paddle.no_grad()
    def _put(self, tensors):
        for name, parameter in self._parameters.items():
            paddle.assign(tensors[name].astype(parameter.dtype), parameter)
