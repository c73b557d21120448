"""The numbers of the named Transformers; to know them takes no Paddle.

`tiny` is Revisit-MMT's for Multi30k (arXiv 2105.14462), `iwslt_de_en` fairseq's architecture of that name, `base` and `big`
those of "Attention Is All You Need", `bart_base` and `bart_large` BART's (arXiv 1910.13461).
"""

from .. import named_sizes

SIZES = {
    "tiny": dict(encoder_layers=4, decoder_layers=4, embed_dim=128, ffn_dim=256, num_heads=4),
    "iwslt_de_en": dict(encoder_layers=6, decoder_layers=6, embed_dim=512, ffn_dim=1024, num_heads=4),
    "base": dict(encoder_layers=6, decoder_layers=6, embed_dim=512, ffn_dim=2048, num_heads=8),
    "big": dict(encoder_layers=6, decoder_layers=6, embed_dim=1024, ffn_dim=4096, num_heads=16),
    "bart_base": dict(encoder_layers=6, decoder_layers=6, embed_dim=768, ffn_dim=3072, num_heads=12),
    "bart_large": dict(encoder_layers=12, decoder_layers=12, embed_dim=1024, ffn_dim=4096, num_heads=16),
    "custom": {},
}


def with_numbers(config):
    """The `model` section with the numbers of its name in the places that are None; raises as `named_sizes.with_numbers`."""
    return named_sizes.with_numbers(config, SIZES)
