"""The numbers of the named language models; to know them takes no Paddle.

They are GPT-2's; fairseq's transformer_lm_gpt, which the published recipe trains, has those of `gpt2`.
"""

from .. import named_sizes

SIZES = {
    "gpt2": dict(layers=12, embed_dim=768, ffn_dim=3072, num_heads=12),
    "gpt2_medium": dict(layers=24, embed_dim=1024, ffn_dim=4096, num_heads=16),
    "gpt2_large": dict(layers=36, embed_dim=1280, ffn_dim=5120, num_heads=20),
    "gpt2_xl": dict(layers=48, embed_dim=1600, ffn_dim=6400, num_heads=25),
    "custom": {},
}


def with_numbers(config):
    """The `model` section with the numbers of its name in the places that are None; raises as `named_sizes.with_numbers`."""
    return named_sizes.with_numbers(config, SIZES)
