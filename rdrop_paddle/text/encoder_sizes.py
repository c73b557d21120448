"""The numbers of the named encoders; to know them takes no Paddle.

`bert_base` and `bert_large` are those of arXiv 1810.04805, the smaller ones Google's of arXiv 1908.08962, and those of MiniLM
of arXiv 2002.10957 with their layers. A vocabulary is the tokens' own: 30,522 of BERT's uncased, 28,996 of its cased English.
"""

from .. import named_sizes

SIZES = {
    "minilm_l6": dict(layers=6, embed_dim=384, ffn_dim=1536, num_heads=12),
    "minilm_l12": dict(layers=12, embed_dim=384, ffn_dim=1536, num_heads=12),
    "bert_tiny": dict(layers=2, embed_dim=128, ffn_dim=512, num_heads=2),
    "bert_mini": dict(layers=4, embed_dim=256, ffn_dim=1024, num_heads=4),
    "bert_small": dict(layers=4, embed_dim=512, ffn_dim=2048, num_heads=8),
    "bert_medium": dict(layers=8, embed_dim=512, ffn_dim=2048, num_heads=8),
    "bert_base": dict(layers=12, embed_dim=768, ffn_dim=3072, num_heads=12),
    "bert_large": dict(layers=24, embed_dim=1024, ffn_dim=4096, num_heads=16),
    "custom": {},
}


def with_numbers(config):
    """The `model` section with the numbers of its name in the places that are None; raises as `named_sizes.with_numbers`."""
    return named_sizes.with_numbers(config, SIZES)
