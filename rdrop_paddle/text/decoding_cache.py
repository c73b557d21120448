"""What decoding a token at a time keeps, so that nothing is computed twice."""

import paddle


class LayerCache:
    """Keys and values of one layer: of the source [N, H, S, d] each, or None, and of the tokens so far [R, H, t, d] each."""

    def __init__(self, source=None):
        self.source = source
        self.own = None

    def extended(self, key, value):
        """The keys and values of all tokens so far, the given [R, H, T, d] of the next ones included from now on."""
        new = (key, value)
        self.own = new if self.own is None else tuple(paddle.concat(pair, axis=2) for pair in zip(self.own, new))
        return self.own


class DecodingCache:
    """The cache of a model: R rows of tokens, equally many for each of N sources, those of a source side by side.

    `sources` has what a LayerCache holds of them for each layer, of a language model so many None.
    """

    def __init__(self, sources, source_bias=None):
        self.layers = [LayerCache(source) for source in sources]
        self.source_bias = source_bias  # [N, 1, 1, S]
        self.length = 0  # of each row, in tokens

    def select(self, rows, sources=None):
        """Go on from `rows`, integers [R'] that may repeat, and keep of the sources only those of `sources` [N'], in order."""
        for layer in self.layers:
            layer.own = tuple(paddle.index_select(t, rows) for t in layer.own)
            if sources is not None:
                layer.source = tuple(paddle.index_select(t, sources) for t in layer.source)
        if sources is not None:
            self.source_bias = paddle.index_select(self.source_bias, sources)
